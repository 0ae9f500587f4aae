"""The report as one HTML file: opens from disk, asks nobody for anything, and works without JavaScript.

``page.document`` puts it together from what the other modules draw: ``accounts`` (where the workers' time
went), ``gantt`` (who ran what when), ``curves`` (over time), ``distributions``, ``tables``. All of them are
pure functions from frozen values to text.
"""

from glasspool.views.report_page.page import document

__all__ = ["document"]

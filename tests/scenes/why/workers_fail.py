"""A program without the guard around its main part: each spawned worker ends as it starts."""

import stage

pool = stage.context().Pool(2)
stage.ready()
pool.apply(stage.touch)

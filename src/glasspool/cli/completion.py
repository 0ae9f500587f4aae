"""``glasspool completion SHELL``: the script by which a shell completes the command.

The script is a few lines: it asks the very ``glasspool`` that stands on the line, with ``--words`` and
the words typed so far, and hands on what that says. So there is one place that knows what may follow,
it reads the parsers of the commands, and a script that was saved years ago completes the options of
today. Each answer costs one start of the interpreter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from glasspool.cli import parsing

DESCRIPTION = """\
Print the script that makes a shell complete commands, options, files, and the
PIDs of programs that run a pool.
"""

EXAMPLES = """\
to use it from now on:
  bash   echo 'eval "$(glasspool completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(glasspool completion zsh)"' >> ~/.zshrc, after compinit
  fish   glasspool completion fish > ~/.config/fish/completions/glasspool.fish
"""

# Each script calls the program as it was typed, which may be that of another environment. Its answer is
# lines of a candidate, a tabulator, and what it is; a line ":files" or ":scripts" stands for those.

_BASH = """\
_glasspool() {
    local program=${COMP_WORDS[0]/#\\~/$HOME} line
    local typed=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o filenames 2>/dev/null
                while IFS= read -r line; do COMPREPLY+=("$line"); done \\
                    < <(compgen -f -- "${typed#=}") ;;
            :scripts) compopt -o filenames 2>/dev/null
                while IFS= read -r line; do COMPREPLY+=("$line"); done \\
                    < <(compgen -d -- "$typed"; compgen -f -X '!*.py' -- "$typed") ;;
            *) COMPREPLY+=("${line%%$'\\t'*}") ;;
        esac
    done < <("$program" completion bash --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _glasspool glasspool
"""

_ZSH = """\
#compdef glasspool
_glasspool() {
    local line program=${~words[1]}
    local -a told
    while IFS= read -r line; do
        case $line in
            :files) compset -P '--*='; _files ;;
            :scripts) _files -g '*.py' ;;
            *) told+=("${${line//:/\\\\:}/$'\\t'/:}") ;;
        esac
    done < <("$program" completion zsh --words "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#told )) && _describe glasspool told
}
compdef _glasspool glasspool
"""

_FISH = """\
function __glasspool
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    for line in ($words[1] completion fish --words $words[2..-1] "$typed" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$typed"
            case :scripts
                __fish_complete_suffix "$typed" .py
            case '*'
                echo $line
        end
    end
end
complete -c glasspool -f -a '(__glasspool)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def main(arguments: Sequence[str]) -> int:
    """Print a shell's script or, when that asks, what may follow; return the exit code."""
    words = list(arguments)
    if len(words) > 2 and words[0] in SCRIPTS and words[1] == "--words":
        # Not read by the parser: these are words of another command, and may be any.
        from glasspool.cli.candidates import answer

        sys.stdout.write("".join(f"{line}\n" for line in answer(words[2:])))
        return 0
    options = make_parser().parse_args(words)
    sys.stdout.write(SCRIPTS[options.shell])
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("completion", DESCRIPTION, EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help="bash, zsh or fish")
    return parser

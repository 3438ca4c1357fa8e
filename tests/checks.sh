# Sourced by the test scripts: one line for each check, and a count at the end. $tmp is a folder that goes away.
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
log=$tmp/log
passed=0 failed=0 skipped=0

pass() { passed=$((passed + 1)); echo "pass  $1"; }
skip() { skipped=$((skipped + 1)); echo "skip  $1: $2"; }
fail() # and what $log says about it
{
    failed=$((failed + 1))
    echo "FAIL  $1"
    sed 's/^/      /' "$log" | head -n 20
}

# check <what it is> <command ...>: the command succeeds, and says nothing
check()
{
    what=$1
    shift
    if "$@" >"$log" 2>&1 && ! [ -s "$log" ]; then pass "$what"; else fail "$what"; fi
}

# refused <what it is> <text> <command ...>: the command fails, and says the text
refused()
{
    what=$1 text=$2
    shift 2
    if "$@" >"$log" 2>&1; then
        echo "was accepted" >"$log"
        fail "$what"
    elif grep -q -e "$text" "$log"; then
        pass "$what"
    else
        fail "$what"
    fi
}

# compiles COMPILER: it is there, and with it a C library
compiles()
{
    command -v "$1" >/dev/null && echo '#include <stdio.h>' | "$1" -fsyntax-only -x c - 2>/dev/null
}

finish()
{
    echo "$((passed + failed)) checks, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

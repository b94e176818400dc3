# SPDX-License-Identifier: MIT
# The files of the tree that are ours: neither build folders nor what git or Python keep beside them.

# list_sources [FIND-TEST...]: paths relative to the root, sorted; the caller stands in the root.
list_sources() {
    [ $# -gt 0 ] || set -- -true
    find . \( -name .git -o -name .cache -o -name __pycache__ -o -name .pytest_cache -o -path './build*' \) -prune -o \
        -type f \( "$@" \) -print | sed 's#^\./##' | sort
}

# SPDX-License-Identifier: MIT
# Bash completion of godwit. The commands, their operands and their options come from what godwit
# itself says for --help, so this file never lags behind it.

# The commands, one a line.
_godwit_commands() {
    "$1" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

# What the command takes after its options: "VM URI".
_godwit_operands() {
    "$1" "$2" --help 2>/dev/null |
        sed -n 's/.*godwit '"$2"' \[OPTION[^]]*\] *\(.*\) - .*/\1/p' | head -n 1
}

# The command's options; those that want a value end in "=".
_godwit_options() {
    "$1" "$2" --help 2>/dev/null | sed -n '/^Options:/,/^$/s/^  \(-., \)\{0,1\}\(--[a-z0-9-]*=\{0,1\}\).*/\2/p'
}

_godwit_vms() {
    "$1" status 2>/dev/null | sed -n 's/^\([^ ]*\) .*/\1/p'
}

_godwit_files() {
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$1"))
}

_godwit() {
    local godwit=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]} i number=0 operand
    COMPREPLY=()
    if [ "$COMP_CWORD" -le 1 ]; then
        COMPREPLY=($(compgen -W "$(_godwit_commands "$godwit") --help --version" -- "$word"))
        return
    fi
    # Bash cuts --option=value into three words.
    if [ "$word" = = ] || [ "$before" = = ]; then
        _godwit_files "${word#=}"
        return
    fi
    case $word in
    -*)
        COMPREPLY=($(compgen -W "$(_godwit_options "$godwit" "$command")" -- "$word"))
        case ${COMPREPLY[0]-} in *=) compopt -o nospace 2>/dev/null ;; esac
        return
        ;;
    esac
    case $before in
    --*)
        if _godwit_options "$godwit" "$command" | grep -qx -- "$before="; then
            _godwit_files "$word"
            return
        fi
        ;;
    esac
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in -*) ;; *) number=$((number + 1)) ;; esac
    done
    read -r -a operand <<<"$(_godwit_operands "$godwit" "$command" | tr -d '[]')"
    case ${operand[number]-} in
    VM) COMPREPLY=($(compgen -W "$(_godwit_vms "$godwit")" -- "$word")) ;;
    *FILE*) _godwit_files "$word" ;;
    URI) COMPREPLY=($(compgen -W "tcp: unix: file: fd: exec:" -- "$word")) && compopt -o nospace 2>/dev/null ;;
    *'|'*) COMPREPLY=($(compgen -W "${operand[number]//|/ }" -- "$word")) ;;
    esac
}

complete -F _godwit godwit

# PROG is completed as a command, and what follows it as that command's own arguments.
_skd_or_prog() {
    local i=1 word
    while (( i < COMP_CWORD )); do
        word=${COMP_WORDS[i]}
        case $word in
            --)
                (( i++ ))
                break
                ;;
            @LONG@)
                (( i++ ))
                ;;
            @OPTIONAL@)
                (( i++ ))
                # Only after an equals sign.
                [[ ${COMP_WORDS[i]} == = ]] || continue
                ;;
            --*)
                (( i++ ))
                continue
                ;;
            -[!-]*)
                (( i++ ))
                # In a bundle, the first letter that takes a value takes the rest of the word, if any.
                word=${word#"${word%%[@SHORT@]*}"}
                (( ${#word} == 1 )) || continue
                ;;
            *)
                break
                ;;
        esac
        # The value. Readline splits words at colons, equals signs and the like.
        while [[ $i -lt $COMP_CWORD && ${COMP_WORDS[i]} == [:=@\<\>]* ]]; do
            (( i++ ))
        done
        (( i++ ))
        while [[ $i -lt $COMP_CWORD && ${COMP_WORDS[i]} == [:=@]* ]]; do
            (( i += 2 ))
        done
    done

    if (( i > COMP_CWORD )) || [[ $i -eq $COMP_CWORD && $2 == -* && ${COMP_WORDS[i-1]} != -- ]]; then
        if [[ $2 == = && $3 == --help ]]; then
            COMPREPLY=( all )
            return
        elif [[ $3 == = && ${COMP_WORDS[COMP_CWORD-2]} == --help ]]; then
            COMPREPLY=( $(compgen -W all -- "$2") )
            return
        fi
        case $3 in
            @USERS@)
                COMPREPLY=( $(compgen -u -- "$2") )
                ;;
            -h|@OPTIONAL@)
                _skd "$1" "$2" ''
                ;;
            *)
                _skd "$@"
                ;;
        esac
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$i"
    elif (( i == COMP_CWORD )); then
        COMPREPLY=( $(compgen -c -- "$2") )
    fi
}

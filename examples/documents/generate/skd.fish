# PROG and its own words so far; fails if there are none.
function __skd_prog
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1]
    argparse --stop-nonopt @SPECIFICATIONS@ -- $words 2>/dev/null
    test -n "$argv"
    and not string match -q -- '-*' $argv[1]
    and string join -- ' ' (string escape -- $argv)
end

function __skd_before_prog
    not __skd_prog >/dev/null
end

# PROG is completed as a command, and what follows it as that command's own arguments.
complete -c skd -x -n 'not __skd_before_prog' -a '(complete -C (__skd_prog))'
complete -c skd -x -n __skd_before_prog -a '(__fish_complete_command)'

# Generated from src/cli/options.rs by: cargo run --example documents
# PROG and its own words so far; fails if there are none yet.
function __skd_prog
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1]
    argparse --stop-nonopt t/tcp= u/udp= i/inet= l/unix= x= s/stream d/datagram b/backlog= c/max-clients= n/nodelay unix-mode= unix-owner= threads= v/verbose B/background L/log= P/pidfile= S/supervise drain= kill-after= U/drop-privileges user= chroot= V/version h/help chdir= umask= nice= limit= env= no-new-privs -- $words 2>/dev/null
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

complete -c skd -n __skd_before_prog -s t -l tcp -d 'Listen on TCP' -r -f
complete -c skd -n __skd_before_prog -s u -l udp -d 'Receive on UDP' -r -f
complete -c skd -n __skd_before_prog -s i -l inet -d 'TCP, or UDP with -d' -r -f
complete -c skd -n __skd_before_prog -s l -s x -l unix -d 'Listen on a unix-domain socket, or an abstract @NAME' -r -F
complete -c skd -n __skd_before_prog -s b -l backlog -d 'Let N connections wait to be accepted [the kernel\'s limit]' -r -f
complete -c skd -n __skd_before_prog -s c -l max-clients -d 'Run at most N handlers at once [no limit]' -r -f
complete -c skd -n __skd_before_prog -l unix-mode -d 'Mode of unix socket files [0777 less the umask]' -r -f
complete -c skd -n __skd_before_prog -l unix-owner -d 'Owner of unix socket files' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l threads -d 'Accept connections in N threads, 1 to 16 [three for two cores]' -r -f
complete -c skd -n __skd_before_prog -s L -l log -d 'Send stderr to TAG, TAG:FACILITY.PRIORITY, >FILE or >>FILE' -r -F
complete -c skd -n __skd_before_prog -s P -l pidfile -d 'Write the process id to FILE, and lock it' -r -F
complete -c skd -n __skd_before_prog -l drain -d 'At SIGTERM, wait so long for handlers to end' -r -f
complete -c skd -n __skd_before_prog -l kill-after -d 'Kill what still runs so long after it was told to end [5s]' -r -f
complete -c skd -n __skd_before_prog -l user -d 'After binding, become this user, with all its groups' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l chroot -d 'The root directory for -U or --user' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l chdir -d 'Start it in DIR' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l umask -d 'Set its umask' -r -f
complete -c skd -n __skd_before_prog -l nice -d 'Set its nice value, -20 to 19' -r -f
complete -c skd -n __skd_before_prog -l limit -d 'Set a resource limit; may be repeated' -r -f
complete -c skd -n __skd_before_prog -l env -d 'Set a variable, or unset it; may be repeated' -r -f
complete -c skd -n __skd_before_prog -s s -l stream -d 'Make every -i, -l and -x a stream socket (the default)'
complete -c skd -n __skd_before_prog -s d -l datagram -d 'Make every -i, -l and -x a datagram socket'
complete -c skd -n __skd_before_prog -s n -l nodelay -d 'Set TCP_NODELAY on every TCP connection'
complete -c skd -n __skd_before_prog -s v -l verbose -d 'Report connections; -vv reports more'
complete -c skd -n __skd_before_prog -s B -l background -d 'Run as a daemon in the background'
complete -c skd -n __skd_before_prog -s S -l supervise -d 'Without a listener: run PROG again whenever it exits'
complete -c skd -n __skd_before_prog -s U -l drop-privileges -d 'After binding, chroot to $ROOT and become $UID and $GID'
complete -c skd -n __skd_before_prog -s V -l version -d 'Print the version'
complete -c skd -n __skd_before_prog -s h -l help -d 'Print this help'
complete -c skd -n __skd_before_prog -l no-new-privs -d 'Let it gain no privileges by set-user-id programs'

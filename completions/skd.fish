# Generated from src/cli/options.rs by: cargo run --example documents
# PROG and its own words so far; fails if there are none.
function __skd_prog
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1]
    argparse --stop-nonopt t/tcp= u/udp= i/inet= l/unix= x= systemd listen-fd= s/stream d/datagram seqpacket b/backlog= c/max-clients= wait datagram-mode= min-source-port= unix-mode= unix-owner= threads= warm= fork-server fork-server-max-age= allow= deny= rules= explain= max-per-source= source-prefix= rate= rate-per-source= at-max= at-source-max= at-rate= first-byte= timeout= idle-timeout= linger= proxy-protocol proxy-from= proxy-timeout= n/nodelay keepalive=\? user-timeout= defer-accept= fast-open= reuse-port freebind device= tos= mark= send-buffer= receive-buffer= multicast= v/verbose B/background L/log= P/pidfile= S/supervise on-demand idle-exit= ready-fd= drain= kill-after= U/drop-privileges user= chroot= check V/version h/help chdir= umask= nice= limit= env= no-new-privs -- $words 2>/dev/null
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
complete -c skd -n __skd_before_prog -s l -s x -l unix -d 'Listen on a unix socket, or an abstract @NAME' -r -F
complete -c skd -n __skd_before_prog -l listen-fd -d 'Take the socket that is open as descriptor N' -r -f
complete -c skd -n __skd_before_prog -s b -l backlog -d 'Let N connections wait to be accepted [the kernel\'s limit]' -r -f
complete -c skd -n __skd_before_prog -s c -l max-clients -d 'Run at most N handlers at once [no limit]' -r -f
complete -c skd -n __skd_before_prog -l datagram-mode -d 'Run PROG to wait [default], per-peer or per-packet' -r -f
complete -c skd -n __skd_before_prog -l min-source-port -d 'Drop UDP datagrams from lower ports [1024 with per-packet]' -r -f
complete -c skd -n __skd_before_prog -l unix-mode -d 'Mode of unix socket files [0777 less the umask]' -r -f
complete -c skd -n __skd_before_prog -l unix-owner -d 'Owner of unix socket files' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l threads -d 'Accept in N threads, 1 to 16 [three for two cores]' -r -f
complete -c skd -n __skd_before_prog -l warm -d 'Keep N processes of PROG ready, each for one connection' -r -f
complete -c skd -n __skd_before_prog -l fork-server-max-age -d 'With it: how old that process may become [1h]' -r -f
complete -c skd -n __skd_before_prog -l allow -d 'Let these clients in, and no others but for further rules' -r -f
complete -c skd -n __skd_before_prog -l deny -d 'Refuse these clients' -r -f
complete -c skd -n __skd_before_prog -l rules -d 'Read more rules from FILE, again at SIGHUP' -r -F
complete -c skd -n __skd_before_prog -l explain -d 'Print what the rules make of an address, and don\'t start' -r -f
complete -c skd -n __skd_before_prog -l max-per-source -d 'Run at most N handlers at once for each source' -r -f
complete -c skd -n __skd_before_prog -l source-prefix -d 'Bits of an address that make a source [32,64]' -r -f
complete -c skd -n __skd_before_prog -l rate -d 'Let in R connections, like 10/s or 300/m' -r -f
complete -c skd -n __skd_before_prog -l rate-per-source -d 'The same for each source' -r -f
complete -c skd -n __skd_before_prog -l at-max -d 'With -c: queue[:DURATION], close, reset or message:TEXT' -r -f
complete -c skd -n __skd_before_prog -l at-source-max -d 'With --max-per-source: the same, but for queue' -r -f
complete -c skd -n __skd_before_prog -l at-rate -d 'With --rate and --rate-per-source: the same' -r -f
complete -c skd -n __skd_before_prog -l first-byte -d 'Run nothing for a client before it has sent something' -r -f
complete -c skd -n __skd_before_prog -l timeout -d 'End a handler that has run for so long' -r -f
complete -c skd -n __skd_before_prog -l idle-timeout -d 'End a handler whose TCP connection was idle for so long' -r -f
complete -c skd -n __skd_before_prog -l linger -d 'Have a handler\'s last words arrive, for so long after its end' -r -f
complete -c skd -n __skd_before_prog -l proxy-from -d 'With it: who sends such; nobody else may come' -r -f
complete -c skd -n __skd_before_prog -l proxy-timeout -d 'With it: how long the header may take [3s]' -r -f
complete -c skd -n __skd_before_prog -l keepalive -d 'End TCP connections whose peer is gone' -f
complete -c skd -n __skd_before_prog -l user-timeout -d 'Let TCP data be unacknowledged for so long' -r -f
complete -c skd -n __skd_before_prog -l defer-accept -d 'Accept TCP clients when they have sent data' -r -f
complete -c skd -n __skd_before_prog -l fast-open -d 'Let N TCP clients send data with the SYN' -r -f
complete -c skd -n __skd_before_prog -l device -d 'Hear only what comes by the interface IF' -r -f
complete -c skd -n __skd_before_prog -l tos -d 'DSCP name or TOS byte of what is sent' -r -f
complete -c skd -n __skd_before_prog -l mark -d 'Firewall mark of what is sent' -r -f
complete -c skd -n __skd_before_prog -l send-buffer -d 'Send buffer\'s size [the kernel\'s choice]' -r -f
complete -c skd -n __skd_before_prog -l receive-buffer -d 'Receive buffer\'s size [the kernel\'s choice]' -r -f
complete -c skd -n __skd_before_prog -l multicast -d 'Join a multicast group, by IF; may be repeated' -r -f
complete -c skd -n __skd_before_prog -s L -l log -d 'Send stderr to TAG, TAG:FACILITY.PRIORITY, >FILE or >>FILE' -r -F
complete -c skd -n __skd_before_prog -s P -l pidfile -d 'Write the process id to FILE, and lock it' -r -F
complete -c skd -n __skd_before_prog -l idle-exit -d 'With --on-demand: end PROG when it had no client for so long' -r -f
complete -c skd -n __skd_before_prog -l ready-fd -d 'Write a newline to descriptor N when ready, and close it' -r -f
complete -c skd -n __skd_before_prog -l drain -d 'At SIGTERM, wait so long for handlers to end' -r -f
complete -c skd -n __skd_before_prog -l kill-after -d 'Kill what still runs so long after it was told to end [5s]' -r -f
complete -c skd -n __skd_before_prog -l user -d 'After binding, become this user, with all its groups' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l chroot -d 'The root directory for -U or --user' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l chdir -d 'Start it in DIR' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l umask -d 'Set its umask' -r -f
complete -c skd -n __skd_before_prog -l nice -d 'Set its nice value, -20 to 19' -r -f
complete -c skd -n __skd_before_prog -l limit -d 'Set a resource limit; may be repeated' -r -f
complete -c skd -n __skd_before_prog -l env -d 'Set a variable, or unset it; may be repeated' -r -f
complete -c skd -n __skd_before_prog -l systemd -d 'Take the sockets that systemd hands over (LISTEN_FDS)'
complete -c skd -n __skd_before_prog -s s -l stream -d 'Make every -i, -l and -x a stream socket (the default)'
complete -c skd -n __skd_before_prog -s d -l datagram -d 'Make every -i, -l and -x a datagram socket'
complete -c skd -n __skd_before_prog -l seqpacket -d 'Make every -l and -x a sequential-packet socket'
complete -c skd -n __skd_before_prog -l wait -d 'Let PROG accept connections itself, on the listening socket'
complete -c skd -n __skd_before_prog -l fork-server -d 'Keep one process of PROG ready, copied for each connection'
complete -c skd -n __skd_before_prog -l proxy-protocol -d 'Learn the client\'s address from a PROXY header, v1 or v2'
complete -c skd -n __skd_before_prog -s n -l nodelay -d 'Set TCP_NODELAY on every TCP connection'
complete -c skd -n __skd_before_prog -l reuse-port -d 'Share ports with programs that do so too'
complete -c skd -n __skd_before_prog -l freebind -d 'Bind addresses that may not be there yet'
complete -c skd -n __skd_before_prog -s v -l verbose -d 'Report connections; -vv reports more'
complete -c skd -n __skd_before_prog -s B -l background -d 'Run as a daemon in the background'
complete -c skd -n __skd_before_prog -s S -l supervise -d 'Run PROG, with the sockets if any, again whenever it exits'
complete -c skd -n __skd_before_prog -l on-demand -d 'With -S: run PROG when a client comes, each time it has exited'
complete -c skd -n __skd_before_prog -s U -l drop-privileges -d 'After binding, chroot to $ROOT and become $UID and $GID'
complete -c skd -n __skd_before_prog -l check -d 'Say all that is wrong with this command line, and don\'t start'
complete -c skd -n __skd_before_prog -s V -l version -d 'Print the version'
complete -c skd -n __skd_before_prog -s h -l help -d 'Print this help'
complete -c skd -n __skd_before_prog -l no-new-privs -d 'Let it gain no privileges by set-user-id programs'

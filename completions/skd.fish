# Generated from src/cli/options.rs by: cargo run --example documents
# PROG and its own words so far; fails if there are none.
function __skd_prog
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1]
    argparse --stop-nonopt t/tcp= u/udp= i/inet= l/unix= x= systemd listen-fd= s/stream d/datagram seqpacket b/backlog= unix-mode= unix-owner= threads= tls= tls-strict-sni tls-client-ca= tls-client= tls-crl= tls-ocsp= tls-min= tls-alpn= tls-timeout= tls-user= tls-program= tls-keylog= c/max-clients= max-total= once wait datagram-mode= min-source-port= warm= fork-server=\? fork-server-max-age= chdir= umask= nice= limit= env= env-file= clear-env pass-env= argv0= name= stderr= no-new-privs contain sandbox=\? share-net ro= rw= tmpfs= sandbox-user= sandbox-hostname= seccomp= memory-max= pids-max= cpu-max= service-memory-max= service-pids-max= service-cpu-max= gate= gate-timeout= gate-max= allow= deny= rules= explain= max-per-source= source-prefix= nat64= rate= rate-per-source= at-max= at-source-max= at-rate= proxy-protocol proxy-from= proxy-timeout= first-byte= timeout= idle-timeout= linger= drain= kill-after= n/nodelay keepalive=\? user-timeout= defer-accept= fast-open= reuse-port freebind device= tos= mark= send-buffer= receive-buffer= multicast= accept-descriptors v/verbose B/background L/log= log-format= log-time=\? log-mask= P/pidfile= S/supervise on-demand idle-exit= ready-fd= user= as-peer daemon-user= U/drop-privileges chroot= check V/version h/help=\? control= control-mode= control-owner= control-read= config= inetd-conf= xinetd= print-config -- $words 2>/dev/null
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
complete -c skd -n __skd_before_prog -s i -l inet -d 'Listen on TCP, or receive on UDP with -d' -r -f
complete -c skd -n __skd_before_prog -s l -s x -l unix -d 'Listen on a unix socket, or on abstract @NAME' -r -F
complete -c skd -n __skd_before_prog -l listen-fd -d 'Take the socket that is open as descriptor N' -r -f
complete -c skd -n __skd_before_prog -s b -l backlog -d 'Limit the backlog to N [the kernel\'s limit]' -r -f
complete -c skd -n __skd_before_prog -l unix-mode -d 'Set the mode of socket files [0777 & ~umask]' -r -f
complete -c skd -n __skd_before_prog -l unix-owner -d 'Set the owner of unix socket files' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l threads -d 'Accept in N threads, 1 to 16 [3 for 2 cores]' -r -f
complete -c skd -n __skd_before_prog -l tls -d 'Speak TLS with clients; repeatable' -r -F
complete -c skd -n __skd_before_prog -l tls-client-ca -d 'Ask clients for a certificate by FILE; repeatable' -r -F
complete -c skd -n __skd_before_prog -l tls-client -d 'Clients\' certificates: optional or required [required]' -r -f
complete -c skd -n __skd_before_prog -l tls-crl -d 'Refuse the certificates revoked in FILE; repeatable' -r -F
complete -c skd -n __skd_before_prog -l tls-ocsp -d 'Staple the OCSP response in FILE; repeatable' -r -F
complete -c skd -n __skd_before_prog -l tls-min -d 'Set the lowest version, 1.2 or 1.3 [1.2]' -r -f
complete -c skd -n __skd_before_prog -l tls-alpn -d 'Name PROG\'s protocols, the preferred one first' -r -f
complete -c skd -n __skd_before_prog -l tls-timeout -d 'End a handshake that takes DURATION [10s]' -r -f
complete -c skd -n __skd_before_prog -l tls-user -d 'Run skd-tls as USER [skd-tls or nobody]' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l tls-program -d 'Use the skd-tls at PATH [beside skd, or in PATH]' -r -F
complete -c skd -n __skd_before_prog -l tls-keylog -d 'Write the secrets of sessions to FILE' -r -F
complete -c skd -n __skd_before_prog -s c -l max-clients -d 'Run at most N handlers at once [no limit]' -r -f
complete -c skd -n __skd_before_prog -l max-total -d 'End after N handlers' -r -f
complete -c skd -n __skd_before_prog -l datagram-mode -d 'Serve by wait, per-peer or per-packet [wait]' -r -f
complete -c skd -n __skd_before_prog -l min-source-port -d 'Drop datagrams from ports below N [0 or 1024]' -r -f
complete -c skd -n __skd_before_prog -l warm -d 'Keep up to N prestarted handlers' -r -f
complete -c skd -n __skd_before_prog -l fork-server -d 'Copy a template for each connection [strict]' -f
complete -c skd -n __skd_before_prog -l fork-server-max-age -d 'Replace a template when it is this old [1h]' -r -f
complete -c skd -n __skd_before_prog -l chdir -d 'Start PROG in DIR' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l umask -d 'Set the umask of PROG, 0 to 777' -r -f
complete -c skd -n __skd_before_prog -l nice -d 'Set the nice value of PROG, -20 to 19' -r -f
complete -c skd -n __skd_before_prog -l limit -d 'Set a resource limit; repeatable' -r -f
complete -c skd -n __skd_before_prog -l env -d 'Set or unset a variable; repeatable' -r -f
complete -c skd -n __skd_before_prog -l env-file -d 'Set the variables in FILE; repeatable' -r -F
complete -c skd -n __skd_before_prog -l pass-env -d 'With --clear-env, inherit NAME; repeatable' -r -f
complete -c skd -n __skd_before_prog -l argv0 -d 'Run PROG under the name NAME' -r -f
complete -c skd -n __skd_before_prog -l name -d 'Name the service NAME [the name of PROG]' -r -f
complete -c skd -n __skd_before_prog -l stderr -d 'Send handlers\' stderr to client or log [log]' -r -f
complete -c skd -n __skd_before_prog -l sandbox -d 'Isolate each handler [strict: by all PARTS]' -f
complete -c skd -n __skd_before_prog -l ro -d 'Show PATH in the sandbox, read-only; repeatable' -r -F
complete -c skd -n __skd_before_prog -l rw -d 'The same, but handlers may change it; repeatable' -r -F
complete -c skd -n __skd_before_prog -l tmpfs -d 'Give each handler an empty PATH in memory; repeatable' -r -f
complete -c skd -n __skd_before_prog -l sandbox-user -d 'Show handlers their user as UID [that outside]' -r -f
complete -c skd -n __skd_before_prog -l sandbox-hostname -d 'Set the host name inside [sandbox]' -r -f
complete -c skd -n __skd_before_prog -l seccomp -d 'Filter system calls by default, log, none or a file' -r -F
complete -c skd -n __skd_before_prog -l memory-max -d 'Limit the memory of each handler' -r -f
complete -c skd -n __skd_before_prog -l pids-max -d 'The same for the number of processes and threads' -r -f
complete -c skd -n __skd_before_prog -l cpu-max -d 'The same for CPU time, in percent of one CPU' -r -f
complete -c skd -n __skd_before_prog -l service-memory-max -d 'Limit the memory of all handlers together' -r -f
complete -c skd -n __skd_before_prog -l service-pids-max -d 'The same for the number of processes and threads' -r -f
complete -c skd -n __skd_before_prog -l service-cpu-max -d 'The same for CPU time, in percent of one CPU' -r -f
complete -c skd -n __skd_before_prog -l gate -d 'Start PROG only if COMMAND, with the client, ends with 0' -r -f -a "(__fish_complete_command)"
complete -c skd -n __skd_before_prog -l gate-timeout -d 'End a gate that takes DURATION [60s]' -r -f
complete -c skd -n __skd_before_prog -l gate-max -d 'Let at most N clients be in the gate [256]' -r -f
complete -c skd -n __skd_before_prog -l allow -d 'Admit these clients; repeatable' -r -f
complete -c skd -n __skd_before_prog -l deny -d 'Refuse these clients; repeatable' -r -f
complete -c skd -n __skd_before_prog -l rules -d 'Read more rules from FILE, again at SIGHUP' -r -F
complete -c skd -n __skd_before_prog -l explain -d 'Print which rule applies to SOURCE, and exit' -r -f
complete -c skd -n __skd_before_prog -l max-per-source -d 'Run at most N handlers for each source' -r -f
complete -c skd -n __skd_before_prog -l source-prefix -d 'Set the bits that make a source [32,64]' -r -f
complete -c skd -n __skd_before_prog -l nat64 -d 'Name a prefix of IPv4 clients; repeatable' -r -f
complete -c skd -n __skd_before_prog -l rate -d 'Admit R connections, like 10/s or 300/m' -r -f
complete -c skd -n __skd_before_prog -l rate-per-source -d 'Admit R connections of each source' -r -f
complete -c skd -n __skd_before_prog -l at-max -d 'Set the action at --max-clients [queue]' -r -f
complete -c skd -n __skd_before_prog -l at-source-max -d 'Set the action at --max-per-source [close]' -r -f
complete -c skd -n __skd_before_prog -l at-rate -d 'Set the action at --rate, --rate-per-source' -r -f
complete -c skd -n __skd_before_prog -l proxy-from -d 'Trust the PROXY headers of SOURCE; repeatable' -r -f
complete -c skd -n __skd_before_prog -l proxy-timeout -d 'Wait so long for a PROXY header [3s]' -r -f
complete -c skd -n __skd_before_prog -l first-byte -d 'Start PROG when the client has sent data' -r -f
complete -c skd -n __skd_before_prog -l timeout -d 'End a handler that has run for DURATION' -r -f
complete -c skd -n __skd_before_prog -l idle-timeout -d 'End a handler that is idle for DURATION' -r -f
complete -c skd -n __skd_before_prog -l linger -d 'Let the answer arrive before closing' -r -f
complete -c skd -n __skd_before_prog -l drain -d 'At SIGTERM, give handlers DURATION to end' -r -f
complete -c skd -n __skd_before_prog -l kill-after -d 'Send KILL so long after TERM [5s]' -r -f
complete -c skd -n __skd_before_prog -l keepalive -d 'End TCP connections whose peer is gone' -f
complete -c skd -n __skd_before_prog -l user-timeout -d 'Limit how long TCP data may be unacknowledged' -r -f
complete -c skd -n __skd_before_prog -l defer-accept -d 'Accept TCP clients when they have sent data' -r -f
complete -c skd -n __skd_before_prog -l fast-open -d 'Let N TCP clients send data with the SYN' -r -f
complete -c skd -n __skd_before_prog -l device -d 'Use only the network interface IF' -r -f
complete -c skd -n __skd_before_prog -l tos -d 'Set the DSCP name or TOS byte of what is sent' -r -f
complete -c skd -n __skd_before_prog -l mark -d 'Set the firewall mark of what is sent' -r -f
complete -c skd -n __skd_before_prog -l send-buffer -d 'Set the send buffer size [kernel\'s choice]' -r -f
complete -c skd -n __skd_before_prog -l receive-buffer -d 'Set the receive buffer size [kernel\'s choice]' -r -f
complete -c skd -n __skd_before_prog -l multicast -d 'Join a multicast group on IF; repeatable' -r -f
complete -c skd -n __skd_before_prog -s L -l log -d 'Send stderr to syslog TAG, >FILE or >>FILE' -r -F
complete -c skd -n __skd_before_prog -l log-format -d 'Write skd\'s lines as text or json [text]' -r -f
complete -c skd -n __skd_before_prog -l log-time -d 'Begin lines with the time [files: yes; else no]' -f
complete -c skd -n __skd_before_prog -l log-mask -d 'Cut clients\' addresses to prefixes in reports' -r -f
complete -c skd -n __skd_before_prog -s P -l pidfile -d 'Write the process id to FILE, and lock it' -r -F
complete -c skd -n __skd_before_prog -l idle-exit -d 'With --on-demand, end PROG without a client' -r -f
complete -c skd -n __skd_before_prog -l ready-fd -d 'Write a newline to descriptor N when ready' -r -f
complete -c skd -n __skd_before_prog -l user -d 'Run PROG as USER, with its groups' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l daemon-user -d 'Become USER after binding, skd and PROG' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l chroot -d 'Run PROG in root directory DIR; needs --user' -r -f -a "(__fish_complete_directories)"
complete -c skd -n __skd_before_prog -l control -d 'Answer and obey on a unix socket at PATH' -r -F
complete -c skd -n __skd_before_prog -l control-mode -d 'Mode of that socket [default: 600]' -r -f
complete -c skd -n __skd_before_prog -l control-owner -d 'Owner of that socket, who may act too' -r -f -a "(__fish_complete_users)"
complete -c skd -n __skd_before_prog -l control-read -d 'Let members of GROUP ask there, but not act' -r -f
complete -c skd -n __skd_before_prog -l config -d 'Serve what TOML files say; repeatable' -r -F
complete -c skd -n __skd_before_prog -l inetd-conf -d 'Serve what inetd.conf files say; repeatable' -r -F
complete -c skd -n __skd_before_prog -l xinetd -d 'Serve what xinetd files say; repeatable' -r -F
complete -c skd -n __skd_before_prog -s h -l help -d 'Print the common options, or all' -f -a "all\t''"
complete -c skd -n __skd_before_prog -l systemd -d 'Take the sockets of systemd socket activation'
complete -c skd -n __skd_before_prog -s s -l stream -d 'Make every -i, -l and -x a stream socket'
complete -c skd -n __skd_before_prog -s d -l datagram -d 'Make every -i, -l and -x a datagram socket'
complete -c skd -n __skd_before_prog -l seqpacket -d 'Make every -l and -x a seqpacket socket'
complete -c skd -n __skd_before_prog -l tls-strict-sni -d 'Refuse clients that ask for another name'
complete -c skd -n __skd_before_prog -l once -d 'Serve one client, and end: --max-total 1'
complete -c skd -n __skd_before_prog -l wait -d 'Run PROG on the listening socket, like inetd'
complete -c skd -n __skd_before_prog -l clear-env -d 'Let PROG inherit no variable, not even PATH'
complete -c skd -n __skd_before_prog -l no-new-privs -d 'Gain no privileges by set-user-id files'
complete -c skd -n __skd_before_prog -l contain -d 'End all that a handler has started with it'
complete -c skd -n __skd_before_prog -l share-net -d 'Let handlers in a sandbox use the network'
complete -c skd -n __skd_before_prog -l proxy-protocol -d 'Take the client\'s address from a PROXY header'
complete -c skd -n __skd_before_prog -s n -l nodelay -d 'Set TCP_NODELAY on connections'
complete -c skd -n __skd_before_prog -l reuse-port -d 'Share TCP and UDP ports with other programs'
complete -c skd -n __skd_before_prog -l freebind -d 'Bind addresses that do not exist yet'
complete -c skd -n __skd_before_prog -l accept-descriptors -d 'Let clients of unix sockets pass descriptors'
complete -c skd -n __skd_before_prog -s v -l verbose -d 'Report connections; -vv reports more'
complete -c skd -n __skd_before_prog -s B -l background -d 'Run as a daemon in the background'
complete -c skd -n __skd_before_prog -s S -l supervise -d 'Run PROG again whenever it exits'
complete -c skd -n __skd_before_prog -l on-demand -d 'With -S, run PROG only when a client comes'
complete -c skd -n __skd_before_prog -l as-peer -d 'Run PROG as the user of its unix client'
complete -c skd -n __skd_before_prog -s U -l drop-privileges -d 'Become $UID and $GID after binding, in $ROOT'
complete -c skd -n __skd_before_prog -l check -d 'Check command line and system, and exit'
complete -c skd -n __skd_before_prog -s V -l version -d 'Print the version'
complete -c skd -n __skd_before_prog -l print-config -d 'Print the configuration as TOML, and exit'

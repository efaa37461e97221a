# Generated from ctl/src/cli.rs by: cargo run --package skdctl --example ctl-documents
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_skdctl_global_optspecs
    string join \n s/socket= json h/help V/version
end

function __fish_skdctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_skdctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_skdctl_using_subcommand
    set -l cmd (__fish_skdctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c skdctl -n "__fish_skdctl_needs_command" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_needs_command" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_needs_command" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_needs_command" -s V -l version -d 'Print version'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "status" -d 'Show how skd and its services are, and what they have counted'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "list" -d 'List the services, a line each'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "ls" -d 'List the services, a line each'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "handlers" -d 'List live handlers'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "ps" -d 'List live handlers'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "sources" -d 'List the most active sources'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "top" -d 'Watch services and handlers live'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "events" -d 'Print events as they happen'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "explain" -d 'Show what would happen to a client now, and why'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "reload" -d 'Read the files of the configuration again, as at SIGHUP'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "upgrade" -d 'Replace the program, as at SIGUSR2'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "drain" -d 'Serve no new client of a service, and wait until its handlers have ended'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "enable" -d 'Serve new clients of a service again, after "drain" or "disable"'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "disable" -d 'Serve no new client of a service; its handlers go on'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "kill" -d 'End handlers: TERM, and KILL later'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "deny" -d 'Refuse clients for a time'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "allow" -d 'Take back "deny"'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "verbosity" -d 'Set how much skd reports'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "metrics" -d 'Print the counters as metrics'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "http" -d 'Serve a status page and metrics over HTTP on standard input and output, as a handler of skd'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "agent-check" -d 'Answer an agent check of haproxy on standard output, as a handler of skd'
complete -c skdctl -n "__fish_skdctl_needs_command" -f -a "completions" -d 'Print the completions of a shell'
complete -c skdctl -n "__fish_skdctl_using_subcommand status" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand status" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand list" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand list" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand list" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand ls" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand ls" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand ls" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -l service -d 'Only those of this service' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -l source -d 'Only those of clients in this prefix, or of a user as uid:N' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -l sort -d 'Which are first' -r -f -a "oldest\t'The oldest'
newest\t'The newest'
pid\t'Those with the lowest process ids'
cpu\t'Those that have used most CPU time'
memory\t'Those with most resident memory'
bytes\t'Those that have transferred most'"
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -s n -l limit -d 'So many at most' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand handlers" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -l service -d 'Only those of this service' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -l source -d 'Only those of clients in this prefix, or of a user as uid:N' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -l sort -d 'Which are first' -r -f -a "oldest\t'The oldest'
newest\t'The newest'
pid\t'Those with the lowest process ids'
cpu\t'Those that have used most CPU time'
memory\t'Those with most resident memory'
bytes\t'Those that have transferred most'"
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -s n -l limit -d 'So many at most' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand ps" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand sources" -l service -d 'Only those of this service' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand sources" -s n -l limit -d 'So many at most' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand sources" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand sources" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand sources" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand top" -s i -l interval -d 'The time between two refreshes' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand top" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand top" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand top" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -l service -d 'Only those of this service; may be repeated' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -l event -d 'Only those of this kind, like "rejected"; may be repeated' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -l source -d 'Only those of clients in this prefix, or of a user as uid:N' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand events" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand explain" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand explain" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand explain" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand reload" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand reload" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand reload" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand upgrade" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand upgrade" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -s a -l announce -d 'Serve on for this time, as a lame duck: a load balancer learns that it should send no more' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -s t -l timeout -d 'Send TERM to the handlers that are left after this time, and KILL later' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -l all -d 'All services'
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand enable" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand enable" -l all -d 'All services'
complete -c skdctl -n "__fish_skdctl_using_subcommand enable" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand enable" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand disable" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand disable" -l refuse -d 'Refuse new clients instead'
complete -c skdctl -n "__fish_skdctl_using_subcommand disable" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand disable" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand kill" -l source -d 'All handlers of clients in this prefix, or of a user as uid:N' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand kill" -l service -d 'All handlers of this service; with --source, only those that are both' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand kill" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand kill" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand kill" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand deny" -l service -d 'Only at this service' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand deny" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand deny" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand deny" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand allow" -l service -d 'The service, as it was denied' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand allow" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand allow" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand allow" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand verbosity" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand verbosity" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand verbosity" -s h -l help -d 'Print help'
complete -c skdctl -n "__fish_skdctl_using_subcommand metrics" -s f -l format -d 'The format' -r -f -a "openmetrics\t'OpenMetrics 1.0'
prometheus\t'The older text format of Prometheus, 0.0.4'"
complete -c skdctl -n "__fish_skdctl_using_subcommand metrics" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand metrics" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand http" -l host -d 'Answer browsers that know this server by this name; may be repeated, and * is any name' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand http" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand http" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand http" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand agent-check" -l timeout -d 'Answer "fail" if skd doesn\'t answer in this time' -r
complete -c skdctl -n "__fish_skdctl_using_subcommand agent-check" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand agent-check" -l weight -d 'Tell the weight: how many per cent of the slots are free, at least 1'
complete -c skdctl -n "__fish_skdctl_using_subcommand agent-check" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand agent-check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c skdctl -n "__fish_skdctl_using_subcommand completions" -s s -l socket -d 'Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]' -r -F
complete -c skdctl -n "__fish_skdctl_using_subcommand completions" -l json -d 'Print the answer as a line of JSON; of "events", a line for each'
complete -c skdctl -n "__fish_skdctl_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'

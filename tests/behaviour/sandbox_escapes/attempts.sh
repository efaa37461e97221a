# Attempts in shell: the first argument is the name of one.

# What a try has met, by its exit status.
met() {
    if [ "$2" = 0 ]; then
        echo "$1: got"
    else
        echo "$1: refused"
    fi
}

case $1 in
    background)
        work='trap "" HUP TERM INT; for i in 1 2 3 4 5 6 7 8 9; do sleep 10; done'
        sh -c "$work" "$MARK" >/dev/null 2>&1 &
        (setsid sh -c "$work" "$MARK" >/dev/null 2>&1 &)
        nohup sh -c "$work" "$MARK" >/dev/null 2>&1 &
        (((sh -c "$work" "$MARK" <&- >&- 2>&- &) &) &)
        echo "sleep: started"
        ;;
    host_files)
        for file in /etc/shadow /root/.bashrc "$HOST_FILE" "/proc/1/root$HOST_FILE" "/proc/self/cwd/../../..$HOST_FILE"; do
            (cat "$file") >/dev/null 2>&1
            met "$file" $?
        done
        ;;
    writable)
        # What may be written besides its own.
        found=$(find / -maxdepth 3 -xdev -writable ! -type l ! -path '/proc*' ! -path '/tmp*' ! -path '/dev/*' \
            ! -path "${SHARED:-none}*" 2>/dev/null | head -n 5)
        echo "others: ${found:+got }${found:-nothing}"
        ;;
    set_user_id)
        # Those of the machine that ask for no password.
        for program in $(find /usr/bin /usr/sbin -perm -4000 2>/dev/null | head -n 20); do
            [ -x "$program" ] && found=$program
        done
        echo "a program: ${found:-none}" >&2
        mkdir "/tmp/$ID"
        (mount -t tmpfs none "/tmp/$ID" && umount "/tmp/$ID") >/dev/null 2>&1
        met mount $?
        rmdir "/tmp/$ID"
        (su -s /bin/sh -c true root </dev/null) >/dev/null 2>&1
        met su $?
        (unshare -Ur true) >/dev/null 2>&1
        met unshare $?
        ;;
    other_processes)
        for entry in /proc/[0-9]*; do
            case ${entry#/proc/} in
                $$ | 1) ;;
                *) tr '\0' ' ' <"$entry/cmdline" 2>/dev/null | grep -q . && found=got ;;
            esac
        done
        echo "others: ${found:-nothing}"
        ;;
esac
echo "end: end"

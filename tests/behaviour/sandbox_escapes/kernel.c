// Ways by the kernel: more rights, other namespaces, mounts, and calls that attack it.

ATTEMPT(mounts) {
    char at[64];
    snprintf(at, sizeof at, "/tmp/%s-mount", given("ID"));
    mkdir(at, 0700);
    TRY("tmpfs", mount("none", at, "tmpfs", 0, NULL) < 0 ? -1 : umount2(at, MNT_DETACH));
    TRY("proc", mount("proc", at, "proc", 0, NULL) < 0 ? -1 : umount2(at, MNT_DETACH));
    TRY("bind", mount("/usr", at, NULL, MS_BIND, NULL) < 0 ? -1 : umount2(at, MNT_DETACH));
    rmdir(at);
    REACH("remount", mount(NULL, "/nonexistent", NULL, MS_REMOUNT | MS_BIND, NULL));
    REACH("move", mount("/nonexistent", "/tmp", NULL, MS_MOVE, NULL));
    REACH("propagation", mount(NULL, "/nonexistent", NULL, MS_SHARED, NULL));
    REACH("unmount /proc", umount2("/nonexistent", MNT_DETACH));
    REACH("pivot_root", syscall(SYS_pivot_root, "/nonexistent", "/nonexistent"));
    REACH("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    REACH("fsmount", syscall(SYS_fsmount, -1, 0, 0));
    REACH("fsconfig", syscall(SYS_fsconfig, -1, 0, NULL, NULL, 0));
    REACH("fspick", syscall(SYS_fspick, AT_FDCWD, "/tmp", 0));
    REACH("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/tmp", 1));
    REACH("move_mount", syscall(SYS_move_mount, -1, "/nonexistent", -1, "/nonexistent", 0));
    REACH("mount_setattr", syscall(SYS_mount_setattr, -1, "/nonexistent", 0, NULL, 0));
    REACH("chroot", chroot("/nonexistent"));
}

ATTEMPT(unshare) {
    static const struct { const char *name; int flag; } kinds[] = {
        {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET}, {"ipc", CLONE_NEWIPC},
        {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80}};
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        if (child == 0) {
            TRY(kinds[i].name, syscall(SYS_unshare, kinds[i].flag));
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
}

ATTEMPT(clone_namespaces) {
    static const struct { const char *name; unsigned long flag; } kinds[] = {
        {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET},
        {"user and mount", CLONE_NEWUSER | CLONE_NEWNS}, {"user and net", CLONE_NEWUSER | CLONE_NEWNET}};
    for (int i = 0; i < 6; i++) {
        pid_t child = syscall(SYS_clone, kinds[i].flag | SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0)
            _exit(0);
        met(kinds[i].name, child < 0 ? errno : 0);
        if (child > 0)
            waitpid(child, NULL, 0);
        char name[64];
        snprintf(name, sizeof name, "%s by clone3", kinds[i].name);
        unsigned long words[11] = {kinds[i].flag, 0, 0, 0, SIGCHLD};
        child = syscall(SYS_clone3, words, 64);
        if (child == 0)
            _exit(0);
        met(name, child < 0 ? errno : 0);
        if (child > 0)
            waitpid(child, NULL, 0);
    }
}

ATTEMPT(join_namespaces) {
    static const char *kinds[] = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"};
    for (int i = 0; i < 8; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/1/ns/%s", kinds[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        REACH(kinds[i], syscall(SYS_setns, fd, 0));
    }
    // The parent of its user namespace: NS_GET_USERNS and NS_GET_PARENT
    int fd = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    TRY("the user namespace above", ioctl(fd, 0xb702));
    fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    TRY("the PID namespace above", ioctl(fd, 0xb702));
}

ATTEMPT(calls_of_root) {
    REACH("init_module", syscall(SYS_init_module, NULL, 0, ""));
    REACH("finit_module", syscall(SYS_finit_module, -1, "", 0));
    REACH("delete_module", syscall(SYS_delete_module, "nonexistent", O_NONBLOCK));
    REACH("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, -1));
    REACH("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    REACH("swapon", syscall(SYS_swapon, "/nonexistent", 0));
    REACH("swapoff", syscall(SYS_swapoff, "/nonexistent"));
    REACH("acct", syscall(SYS_acct, "/nonexistent"));
    REACH("quotactl", syscall(SYS_quotactl, 0x80000100, "/nonexistent", 0, NULL));
    REACH("fanotify_init", syscall(SYS_fanotify_init, -1, 0));
#ifdef SYS_iopl
    REACH("iopl", syscall(SYS_iopl, 3));
    REACH("ioperm", syscall(SYS_ioperm, 0x378, 1, 1));
#endif
}

ATTEMPT(calls_that_attack) {
    REACH("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
    REACH("io_uring_enter", syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
    REACH("io_uring_register", syscall(SYS_io_uring_register, -1, 0, NULL, 0));
    REACH("bpf", syscall(SYS_bpf, 0, NULL, 0));
    REACH("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    REACH("userfaultfd", syscall(SYS_userfaultfd, 0));
    REACH("userfaultfd for the user alone", syscall(SYS_userfaultfd, 1));
    REACH("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    REACH("ptrace", ptrace(PTRACE_PEEKDATA, getpid(), NULL, NULL));
    REACH("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    REACH("process_vm_readv", process_vm_readv(getpid(), NULL, 0, NULL, 0, 0));
    REACH("pidfd_getfd", syscall(SYS_pidfd_getfd, -1, 0, 0));
    REACH("process_madvise", syscall(SYS_process_madvise, -1, NULL, 0, 0, 0));
    REACH("move_pages", syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0));
    REACH("personality of another kernel", syscall(SYS_personality, 0x0002));
}

ATTEMPT(kernel_log) {
    static char text[4096];
    TRY("syslog", syscall(SYS_syslog, 3, text, sizeof text));
    TRY("/dev/kmsg", opens("/dev/kmsg", O_RDONLY));
    TRY("/proc/kmsg", opens("/proc/kmsg", O_RDONLY));
}

ATTEMPT(regain_rights) {
    TRY("uid 0", setresuid(0, 0, 0) < 0 ? -1 : geteuid() ? (errno = EPERM, -1) : 0);
    TRY("gid 0", setresgid(0, 0, 0));
    TRY("groups", syscall(SYS_setgroups, 1, (gid_t[1]){0}));
    // CAP_SYS_ADMIN
    unsigned head[2] = {0x20080522, 0}, sets[6] = {1 << 21, 1 << 21, 1 << 21};
    TRY("capabilities", syscall(SYS_capset, head, sets));
    TRY("ambient capabilities", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
    TRY("secure bits", prctl(PR_SET_SECUREBITS, 0));
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long any = 0, more, no_new = 0;
    while (status && fgets(line, sizeof line, status)) {
        if (sscanf(line, "CapEff: %lx", &more) == 1 || sscanf(line, "CapPrm: %lx", &more) == 1
            || sscanf(line, "CapBnd: %lx", &more) == 1 || sscanf(line, "CapInh: %lx", &more) == 1)
            any |= more;
        sscanf(line, "NoNewPrivs: %lu", &no_new);
    }
    seen("capabilities in /proc", any != 0);
    seen("privileges to be had by exec", no_new != 1);
}

static void print_rights(void) {
    unsigned head[2] = {0x20080522, 0}, sets[6] = {0};
    syscall(SYS_capget, head, sets);
    seen("root by exec", geteuid() == 0 && !*given("INSIDE_ROOT"));
    seen("capabilities by exec", sets[0] | sets[3]);
}

ATTEMPT(print_rights) { print_rights(); }

static void exec_file(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", given("HERE"), name);
    pid_t child = fork();
    if (child == 0) {
        execl(path, path, "print_rights", NULL);
        met("exec", errno);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

ATTEMPT(set_user_id) { exec_file("set-user-id"); }
ATTEMPT(file_capabilities) { exec_file("capable"); }

ATTEMPT(set_user_id_of_its_own) {
    int memory = syscall(SYS_memfd_create, "attempt", 0);
    int own = open("/proc/self/exe", O_RDONLY);
    static char text[1 << 16];
    ssize_t length;
    while ((length = read(own, text, sizeof text)) > 0)
        if (write(memory, text, length) != length)
            _exit(3);
    (void)!fchown(memory, 0, 0);
    (void)!fchmod(memory, 04755);
    pid_t child = fork();
    if (child == 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
        execl(path, path, "print_rights", NULL);
        met("exec", errno);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

ATTEMPT(clock) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    TRY("clock_settime", clock_settime(CLOCK_REALTIME, &now));
    struct timeval time = {now.tv_sec, now.tv_nsec / 1000};
    clock_gettime(CLOCK_REALTIME, &now);
    time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    TRY("settimeofday", settimeofday(&time, NULL));
    struct timex state = {0};
    adjtimex(&state);
    state.modes = ADJ_TICK;
    TRY("adjtimex", adjtimex(&state));
    TRY("clock_adjtime", clock_adjtime(CLOCK_REALTIME, &state));
}

ATTEMPT(host_name) {
    char name[256];
    gethostname(name, sizeof name);
    TRY("sethostname", sethostname(name, strlen(name)));
    char domain[256];
    (void)!getdomainname(domain, sizeof domain);
    TRY("setdomainname", setdomainname(domain, strlen(domain)));
    seen("the host's name", !strcmp(name, given("HOST_NAME")));
}

ATTEMPT(priorities) {
    TRY("nice", setpriority(PRIO_PROCESS, 0, -1));
    struct sched_param one = {1};
    TRY("real time", sched_setscheduler(0, SCHED_FIFO, &one));
    TRY("real-time I/O", syscall(SYS_ioprio_set, 1, 0, 0x2000));
    setpriority(PRIO_PROCESS, 0, 0);
    sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
}

ATTEMPT(limits) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    // Down first, so that there is something to raise.
    struct rlimit low = {0, limit.rlim_max == RLIM_INFINITY ? 1 << 20 : limit.rlim_max};
    setrlimit(RLIMIT_CORE, &low);
    low.rlim_max += 1 << 20;
    TRY("files", setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 10, 1 << 28}));
    TRY("core", setrlimit(RLIMIT_CORE, &low));
    TRY("a score for the killer of processes", ({
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        fd < 0 ? -1 : write(fd, "-1000", 5);
    }));
}

ATTEMPT(proc_settings) {
    static const char *files[] = {"sys/kernel/core_pattern", "sys/kernel/hostname", "sys/kernel/modprobe", "sys/vm/drop_caches",
                                  "sys/user/max_user_namespaces", "sys/net/ipv4/ip_forward",
                                  "sys/kernel/shmmax", "sys/fs/mqueue/queues_max", "sysrq-trigger", "sys/kernel/sysrq",
                                  "irq/default_smp_affinity"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        snprintf(path, sizeof path, "/proc/%s", files[i]);
        TRY(files[i], opens(path, O_WRONLY));
    }
    // These may be opened by anybody.
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    TRY("another map of users", write(fd, "0 0 1", 5));
    fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    TRY("the next number of a process", write(fd, "300", 3));
    TRY("/sys", opens("/sys/kernel/.", O_RDONLY));
    TRY("control groups", opens("/sys/fs/cgroup/.", O_RDONLY));
}

ATTEMPT(kernel_secrets) {
    FILE *symbols = fopen("/proc/kallsyms", "r");
    char line[512];
    unsigned long any = 0, address;
    for (int i = 0; i < 200 && symbols && fgets(line, sizeof line, symbols); i++)
        if (sscanf(line, "%lx", &address) == 1)
            any |= address;
    seen("addresses in kallsyms", any != 0);
    static const char *files[] = {"kcore", "kmsg", "vmallocinfo", "slabinfo", "iomem", "timer_list",
                                  "kpagecount", "mtrr"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        snprintf(path, sizeof path, "/proc/%s", files[i]);
        if (!strcmp(files[i], "iomem")) {
            // Anybody may read it; what is in it is another matter.
            int addresses = 0;
            FILE *file = fopen(path, "r");
            while (file && fgets(line, sizeof line, file))
                addresses |= strncmp(line, "00000000-00000000", 17) && line[0] != ' ';
            seen(files[i], addresses);
        } else
            TRY(files[i], opens(path, O_RDONLY));
    }
    int fd = open("/proc/self/stack", O_RDONLY | O_CLOEXEC);
    TRY("its kernel stack", read(fd, line, sizeof line));
}

#ifdef __x86_64__
static void by_int80(void) {
    long result;
    // getpid of the 32-bit table
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    met("int 0x80", result < 0 ? -result : 0);
}

static void by_x32(void) {
    long result = syscall(0x40000000 | SYS_getpid);
    met("x32", result < 0 ? errno : 0);
}
#endif

ATTEMPT(other_tables) {
#ifdef __x86_64__
    apart("int 0x80", by_int80);
    apart("x32", by_x32);
#else
    say("none: nothing\n");
#endif
}

ATTEMPT(memory_bomb) {
    // Bounded, for the kernel that doesn't bound it.
    int count = 0;
    for (; count < 256; count++) {
        char *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED)
            break;
        memset(block, 1, 1 << 20);
    }
    met("256 MiB", count == 256 ? 0 : errno);
}

ATTEMPT(terminal) {
    TRY("/dev/tty", opens("/dev/tty", O_RDWR));
    static const char *names[] = {"TIOCSTI by 0", "TIOCSTI by 1", "TIOCSTI by 2"};
    for (int fd = 0; fd < 3; fd++)
        TRY(names[fd], ioctl(fd, TIOCSTI, "x"));
    TRY("TIOCSCTTY", ioctl(2, TIOCSCTTY, 0));
    TRY("TIOCLINUX", ioctl(2, 0x541c, "\2"));
    TRY("reading it", opens("/proc/self/fd/2", O_RDONLY));
}

ATTEMPT(owner_signals) {
    // A signal from the kernel to whoever the handler names.
    pid_t others[] = {number("SKD_PID"), number("HOST_PID")};
    static const char *names[] = {"skd as the owner of the connection", "a process of the host",
                                  "skd as the owner of the log", "the same, of the log"};
    for (int i = 0; i < 4; i++)
        TRY(names[i], fcntl(i < 2 ? 0 : 2, F_SETOWN, others[i % 2]));
}

ATTEMPT(client_process) {
    // The process at the other end of a unix connection, by its descriptor: SO_PEERPIDFD
    int pidfd = -1;
    socklen_t length = sizeof pidfd;
    if (getsockopt(0, SOL_SOCKET, 77, &pidfd, &length) < 0) {
        met("a descriptor of it", errno);
        return;
    }
    TRY("signal it", syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
    TRY("its descriptors", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    TRY("its namespaces", syscall(SYS_setns, pidfd, CLONE_NEWNET));
    // PIDFD_GET_NET_NAMESPACE
    TRY("its network", ioctl(pidfd, 0xff05));
}

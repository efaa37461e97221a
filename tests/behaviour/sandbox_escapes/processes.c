// Ways to other processes.

static int foreign_processes(void) {
    DIR *proc = opendir("/proc");
    int found = 0;
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        int pid = atoi(entry->d_name);
        found += pid > 0 && pid != getpid();
    }
    closedir(proc);
    return found;
}

ATTEMPT(see_processes) {
    seen("processes in /proc", foreign_processes());
    seen("a parent", getppid() != 0);
    seen("a number other than 1", getpid() != 1);
}

static void by_number(pid_t pid) {
    TRY("kill", kill(pid, 0));
    TRY("tgkill", syscall(SYS_tgkill, pid, pid, 0));
    int pidfd = TRY("pidfd_open", syscall(SYS_pidfd_open, pid, 0));
    TRY("pidfd_send_signal", syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
    TRY("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    char buffer[18];
    struct iovec ours = {buffer, sizeof buffer}, theirs = {(void *)number("HOST_SECRET"), sizeof buffer};
    // Another process may have nothing there.
    TRY("process_vm_readv", process_vm_readv(pid, &ours, 1, &theirs, 1, 0) < 0 && errno != EFAULT ? -1 : 0);
    TRY("process_vm_writev", process_vm_writev(pid, &ours, 1, &theirs, 1, 0) < 0 && errno != EFAULT ? -1 : 0);
    TRY("ptrace", ptrace(PTRACE_SEIZE, pid, NULL, NULL));
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    char path[64];
    static const char *files[] = {"mem", "environ", "maps", "root/etc/passwd", "fd/0", "cwd/."};
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        TRY(files[i], opens(path, O_RDONLY));
    }
    TRY("its group", getpgid(pid));
    TRY("nice", setpriority(PRIO_PROCESS, pid, getpriority(PRIO_PROCESS, 0)));
    cpu_set_t set;
    TRY("affinity", sched_getaffinity(pid, sizeof set, &set));
    TRY("ioprio", syscall(SYS_ioprio_get, 1, pid));
    struct rlimit limit;
    TRY("prlimit", prlimit(pid, RLIMIT_NOFILE, NULL, &limit));
}

ATTEMPT(host_process) { by_number(number("HOST_PID")); }
ATTEMPT(neighbour_process) { by_number(number("NEIGHBOUR_HOST_PID")); }
ATTEMPT(skd_process) { by_number(number("SKD_PID")); }

ATTEMPT(parent_process) {
    // The jailer's or skd's number would be that of the parent.
    pid_t parent = getppid();
    TRY("the parent", parent == 0 ? (errno = ESRCH, -1) : kill(parent, 0));
    TRY("all", kill(-1, 0));
}

ATTEMPT(signal_everything) {
    signal(SIGTERM, SIG_IGN);
    kill(-1, SIGTERM);
    kill(-1, SIGKILL);
    say("sent: nothing\n");
}

// A child's life that goes on: in another session, with all signals ignored, known by its name.
static void linger(int ready, int keeps_connection) {
    setsid();
    for (int i = 1; i < 65; i++)
        signal(i, SIG_IGN);
    prctl(PR_SET_NAME, given("MARK"));
    prctl(PR_SET_PDEATHSIG, 0);
    if (write(ready, "", 1) != 1)
        _exit(1);
    if (!keeps_connection) {
        close(0);
        close(1);
        close(2);
    }
    close(ready);
    for (time_t end = time(NULL) + 100; time(NULL) < end;)
        poll(NULL, 0, 1000);
    _exit(0);
}

static void wait_for_children(int pipes[2], const char *what) {
    close(pipes[1]);
    char byte;
    say("%s: %s\n", what, read(pipes[0], &byte, 1) == 1 ? "started" : "ECHILD");
    close(pipes[0]);
}

ATTEMPT(leave_child) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    if (fork() == 0)
        linger(pipes[1], 0);
    wait_for_children(pipes, "fork");
}

ATTEMPT(leave_daemon) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            setpgid(0, 0);
            if (fork() == 0)
                linger(pipes[1], 0);
        }
        _exit(0);
    }
    wait_for_children(pipes, "double fork");
}

ATTEMPT(leave_with_connection) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    if (fork() == 0)
        linger(pipes[1], 1);
    wait_for_children(pipes, "fork");
}

ATTEMPT(leave_sibling) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    // Process 1 of a namespace may not; its child may.
    if (fork() == 0) {
        if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL) == 0)
            linger(pipes[1], 0);
        _exit(0);
    }
    if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL) == 0)
        linger(pipes[1], 0);
    wait_for_children(pipes, "CLONE_PARENT");
}

ATTEMPT(leave_vfork) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    // The child shares memory, and its parent is killed while it waits.
    if (fork() == 0) {
        if (vfork() == 0) {
            // In a copy of its own from here on.
            if (syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) == 0)
                linger(pipes[1], 0);
            kill(getppid(), SIGKILL);
            _exit(0);
        }
        _exit(0);
    }
    wait_for_children(pipes, "vfork");
}

ATTEMPT(leave_many) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    for (int i = 0; i < 30; i++)
        if (fork() == 0)
            linger(pipes[1], i % 2);
    close(pipes[1]);
    char byte;
    int count = 0;
    while (count < 30 && read(pipes[0], &byte, 1) == 1)
        count++;
    say("30 children: %s\n", count == 30 ? "started" : "fewer");
}

ATTEMPT(leave_threads) {
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    // A process whose first thread has ended, below a reaper of its own.
    if (fork() == 0) {
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        if (fork() == 0)
            linger(pipes[1], 0);
        syscall(SYS_exit, 0);
    }
    wait_for_children(pipes, "subreaper");
}

ATTEMPT(fork_bomb) {
    // Bounded, for the kernel that doesn't bound it.
    int count = 0, error = 0;
    pid_t children[200];
    for (; count < 200; count++) {
        pid_t child = children[count] = fork();
        if (child == 0) {
            poll(NULL, 0, 20000);
            _exit(0);
        }
        if (child < 0) {
            error = errno;
            break;
        }
    }
    met("200 processes", error);
    while (count > 0)
        kill(children[--count], SIGKILL);
}

ATTEMPT(cpu_hog) {
    // Three seconds of four processes, and the time that they had.
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 3;
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            do
                clock_gettime(CLOCK_MONOTONIC, &now);
            while (now.tv_sec < end.tv_sec);
            _exit(0);
        }
    while (wait(NULL) > 0) {
    }
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    say("milliseconds: %ld\n", (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000
        + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000);
}

ATTEMPT(death_signal) {
    TRY("PR_SET_PDEATHSIG 0", prctl(PR_SET_PDEATHSIG, 0));
}

// Lives on, with children, whatever comes: for the tests that end skd or reach a time limit.
ATTEMPT(stay) {
    prctl(PR_SET_NAME, given("MARK"));
    for (int i = 1; i < 65; i++)
        signal(i, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    int pipes[2];
    if (pipe(pipes) < 0)
        _exit(3);
    for (int i = 0; i < 3; i++)
        if (fork() == 0)
            linger(pipes[1], 1);
    char byte;
    for (int i = 0; i < 3; i++)
        if (read(pipes[0], &byte, 1) != 1)
            _exit(3);
    say("stays\n");
    for (time_t end = time(NULL) + 100; time(NULL) < end;)
        poll(NULL, 0, 1000);
}

// Ways to another connection of the same service, whose handler has tried to make something of each kind.

ATTEMPT(neighbour_sockets) {
    struct sockaddr_un address;
    socklen_t length = abstract(&address, given("NEIGHBOUR_ID"));
    TRY("abstract", connects((struct sockaddr *)&address, length));
    char path[128];
    snprintf(path, sizeof path, "/tmp/%s.socket", given("NEIGHBOUR_ID"));
    length = at_path(&address, path);
    TRY("in /tmp", connects((struct sockaddr *)&address, length));
}

ATTEMPT(neighbour_loopback) {
    TRY("TCP", connects_ipv4("127.0.0.1", *given("NEIGHBOUR_TCP") ? number("NEIGHBOUR_TCP") : 9));
    TRY("TCP of any address", connects_ipv4("127.0.0.1", *given("NEIGHBOUR_ANY") ? number("NEIGHBOUR_ANY") : 9));
    TRY("TCP of any address, by 0.0.0.0", connects_ipv4("0.0.0.0", *given("NEIGHBOUR_ANY") ? number("NEIGHBOUR_ANY") : 9));
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    TRY("an address to listen at", bind(fd, (struct sockaddr *)&six, sizeof six));
}

static void system_v(long key) {
    TRY("segment", shmget(key, 0, 0));
    TRY("queue", msgget(key, 0));
    TRY("semaphores", semget(key, 0, 0));
    int any = 0;
    struct shm_info info;
    struct shmid_ds one;
    int last = shmctl(0, SHM_INFO, (void *)&info);
    for (int i = 0; i <= last && i < 100; i++)
        any |= shmctl(i, SHM_STAT, &one) >= 0;
    seen("list of segments", any);
    seen("/proc/sysvipc", lines("/proc/sysvipc/shm") > 1 || lines("/proc/sysvipc/msg") > 1);
}

ATTEMPT(neighbour_system_v) { system_v(number("NEIGHBOUR_KEY")); }
ATTEMPT(host_system_v) { system_v(number("HOST_KEY")); }

static void queues(const char *id) {
    char path[128];
    snprintf(path, sizeof path, "/%s", id);
    TRY("a queue", mq_open(path, O_RDONLY));
}

ATTEMPT(neighbour_queues) { queues(given("NEIGHBOUR_ID")); }
ATTEMPT(host_queues) { queues(given("HOST_ID")); }

static void temporary(const char *id) {
    static const char *places[] = {"/tmp", "/var/tmp", "/dev/shm"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", places[i], id);
        TRY(places[i], opens(path, O_RDONLY));
    }
}

ATTEMPT(neighbour_files) { temporary(given("NEIGHBOUR_ID")); }
ATTEMPT(host_files_in_tmp) { temporary(given("HOST_ID")); }

ATTEMPT(neighbour_netlink) {
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = number("NEIGHBOUR_NETLINK")};
    int fd;
    TRY("a message", (fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK)) < 0 ? -1 : sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof to));
}

static void keys(const char *id) {
    TRY("search", syscall(SYS_keyctl, 10, -4, "user", id, 0));
    TRY("request_key", syscall(SYS_request_key, "user", id, NULL, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "left", "x", 1, -4));
    TRY("the session keyring", syscall(SYS_keyctl, 0, -3, 1));
}

ATTEMPT(neighbour_keys) { keys(given("NEIGHBOUR_ID")); }
ATTEMPT(host_keys) { keys(given("HOST_ID")); }

// All connections share descriptor 2, and with it what is set for all who have it.
ATTEMPT(log_pipe) {
    TRY("read what others write to the log", opens("/proc/self/fd/2", O_RDONLY));
    TRY("open it to write", opens("/proc/self/fd/2", O_RDWR));
    TRY("cut it", ftruncate(2, 0));
    TRY("go back in it", lseek(2, 0, SEEK_SET));
    TRY("read it", read(2, (char[1]){0}, 1));
    struct stat state;
    fstat(2, &state);
    TRY("give it another mode", fchmod(2, state.st_mode & 07777));
}

ATTEMPT(shut_log_down) { TRY("shutdown", shutdown(2, SHUT_RDWR)); }

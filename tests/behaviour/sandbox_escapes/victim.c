// What others have: a process of the host with the user of the handler, or a handler of another connection, with
// something of each kind that could be reached from outside it. It names those that it could make, and keeps them until
// the end of its input.

static char secret[64] = "a secret in memory";

static void name_(const char *what, const char *form, ...) {
    char value[512];
    va_list words;
    va_start(words, form);
    vsnprintf(value, sizeof value, form, words);
    va_end(words);
    say("%s=%s\n", what, value);
}

static int listens(int family, struct sockaddr *address, socklen_t length) {
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && (bind(fd, address, length) < 0 || listen(fd, 8) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int port_of(int fd) {
    struct sockaddr_in address = {0};
    socklen_t length = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &length);
    return ntohs(address.sin_port);
}

ATTEMPT(victim) {
    // With a name, on the machine, by which all its things are told from those of other tests.
    const char *id = given("ID");
    long key = number("KEY");
    prctl(PR_SET_NAME, id);
    signal(SIGPIPE, SIG_IGN);
    struct pollfd watched[6];
    int count = 0;
    watched[count++] = (struct pollfd){.fd = 0, .events = POLLIN};

    struct sockaddr_in here = ipv4("127.0.0.1", 0);
    int fd = listens(AF_INET, (struct sockaddr *)&here, sizeof here);
    if (fd >= 0) {
        name_("TCP", "%d", port_of(fd));
        watched[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    here = ipv4("0.0.0.0", 0);
    fd = listens(AF_INET, (struct sockaddr *)&here, sizeof here);
    if (fd >= 0) {
        name_("ANY", "%d", port_of(fd));
        watched[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    here = ipv4("127.0.0.1", 0);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    if (udp >= 0 && bind(udp, (struct sockaddr *)&here, sizeof here) == 0) {
        name_("UDP", "%d", port_of(udp));
        watched[count++] = (struct pollfd){.fd = udp, .events = POLLIN};
    }
    struct sockaddr_un address;
    socklen_t length = abstract(&address, id);
    fd = listens(AF_UNIX, (struct sockaddr *)&address, length);
    if (fd >= 0) {
        name_("ABSTRACT", "%s", id);
        watched[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    char path[256];
    snprintf(path, sizeof path, "%s/%s.socket", *given("PLACE") ? given("PLACE") : "/tmp", id);
    length = at_path(&address, path);
    fd = listens(AF_UNIX, (struct sockaddr *)&address, length);
    if (fd >= 0) {
        name_("SOCKET", "%s", path);
        watched[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }

    int shared = shmget(key, 4096, IPC_CREAT | 0600);
    if (shared >= 0) {
        strcpy(shmat(shared, NULL, 0), secret);
        name_("SHM", "%ld", key);
    }
    int queue = msgget(key, IPC_CREAT | 0600);
    struct { long type; char text[8]; } message = {1, "secret"};
    if (queue >= 0 && msgsnd(queue, &message, 8, 0) == 0)
        name_("MSG", "%ld", key);
    int semaphores = semget(key, 1, IPC_CREAT | 0600);
    if (semaphores >= 0)
        name_("SEM", "%ld", key);
    char mq[64];
    snprintf(mq, sizeof mq, "/%s", id);
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
    if (mq_open(mq, O_RDWR | O_CREAT, 0600, &attributes) >= 0)
        name_("MQ", "%s", mq);

    static const char *places[] = {"/tmp", "/var/tmp", "/dev/shm"};
    static const char *names[] = {"FILE_TMP", "FILE_VAR", "FILE_SHM"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", places[i], id);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (fd >= 0 && write(fd, secret, 18) == 18)
            name_(names[i], "%s", path);
    }
    long ring = syscall(SYS_add_key, "user", id, "secret", 6, -4);
    if (ring >= 0) {
        // Whoever finds it may read it.
        syscall(SYS_keyctl, 5, ring, 0x3f3f3f3f);
        name_("KEYRING", "%ld", ring);
    }
    int link = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
    struct sockaddr_nl port = {.nl_family = AF_NETLINK};
    length = sizeof port;
    if (link >= 0 && bind(link, (struct sockaddr *)&port, length) == 0
        && getsockname(link, (struct sockaddr *)&port, &length) == 0)
        name_("NETLINK", "%u", port.nl_pid);
    name_("PID", "%d", getpid());
    name_("SECRET", "%lu", (unsigned long)secret);
    say("ready\n");

    for (;;) {
        poll(watched, count, -1);
        for (int i = 1; i < count; i++) {
            if (!(watched[i].revents & POLLIN))
                continue;
            if (watched[i].fd == udp) {
                struct sockaddr_in from;
                socklen_t size = sizeof from;
                char byte;
                if (recvfrom(udp, &byte, 1, 0, (struct sockaddr *)&from, &size) >= 0)
                    sendto(udp, secret, 18, 0, (struct sockaddr *)&from, size);
            } else {
                int client = accept(watched[i].fd, NULL, NULL);
                if (client >= 0 && write(client, secret, 18) > 0)
                    close(client);
            }
        }
        char byte;
        if (watched[0].revents && read(0, &byte, 1) <= 0)
            break;
    }
    // What would outlive it.
    if (shared >= 0)
        shmctl(shared, IPC_RMID, NULL);
    if (queue >= 0)
        msgctl(queue, IPC_RMID, NULL);
    if (semaphores >= 0)
        semctl(semaphores, 0, IPC_RMID);
    mq_unlink(mq);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", places[i], id);
        unlink(path);
    }
    if (ring >= 0)
        syscall(SYS_keyctl, 9, ring, -4);
}

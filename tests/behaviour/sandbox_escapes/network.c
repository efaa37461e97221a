// Ways to talk to anything but the client.

static int connects(struct sockaddr *address, socklen_t length) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int result = connect(fd, address, length);
    int error = errno;
    close(fd);
    errno = error;
    return result;
}

static int connects_ipv4(const char *host, int port) {
    struct sockaddr_in address = ipv4(host, port);
    return connects((struct sockaddr *)&address, sizeof address);
}

ATTEMPT(loopback) {
    TRY("TCP to 127.0.0.1", connects_ipv4("127.0.0.1", number("HOST_TCP")));
    TRY("TCP to 127.0.0.2", connects_ipv4("127.0.0.2", number("HOST_ANY")));
    TRY("TCP to 0.0.0.0", connects_ipv4("0.0.0.0", number("HOST_ANY")));
    struct sockaddr_in address = ipv4("127.0.0.1", number("HOST_UDP"));
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    TRY("UDP to 127.0.0.1", sendto(udp, "x", 1, 0, (struct sockaddr *)&address, sizeof address));
    TRY("the port of skd", connects_ipv4("127.0.0.1", number("SKD_PORT")));
}

ATTEMPT(other_machines) {
    // Tells of a route, and sends nothing.
    struct sockaddr_in address = ipv4("192.0.2.1", 9);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    TRY("a route to another machine", connect(udp, (struct sockaddr *)&address, sizeof address));
    TRY("a multicast", sendto(udp, "", 0, 0, (struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET,
        .sin_port = htons(9), .sin_addr.s_addr = htonl(0xe0000001)}, sizeof address));
}

ATTEMPT(abstract_sockets) {
    struct sockaddr_un address;
    socklen_t length = abstract(&address, given("HOST_ABSTRACT"));
    TRY("a stream", connects((struct sockaddr *)&address, length));
}

ATTEMPT(path_sockets) {
    struct sockaddr_un address;
    socklen_t length = at_path(&address, given("HOST_SOCKET"));
    TRY("a socket of the host", connects((struct sockaddr *)&address, length));
    char path[256];
    snprintf(path, sizeof path, "/proc/1/root%s", given("HOST_SOCKET"));
    length = at_path(&address, path);
    TRY("by the root of process 1", connects((struct sockaddr *)&address, length));
}

// The connection is a socket of the host's network for ever: other connections could be made of it.
static int undo_connection(void) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    return connect(0, &none, sizeof none);
}

ATTEMPT(reconnect) {
    by_log = "reconnect";
    struct sockaddr_in address = ipv4("127.0.0.1", number("HOST_TCP"));
    undo_connection();
    TRY("fast open", sendto(0, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof address));
    undo_connection();
    TRY("connect", connect(0, (struct sockaddr *)&address, sizeof address));
}

ATTEMPT(listen_outside) {
    by_log = "listen_outside";
    undo_connection();
    TRY("listen", listen(0, 1));
    undo_connection();
    shutdown(0, SHUT_RDWR);
    struct sockaddr_in any = ipv4("0.0.0.0", 0);
    TRY("bind", bind(0, (struct sockaddr *)&any, sizeof any));
}

ATTEMPT(host_interfaces) {
    // By the connection, which is a socket of the host's network.
    struct ifreq request = {.ifr_name = "lo"};
    TRY("flags of lo", ioctl(0, SIOCGIFFLAGS, &request));
    struct ifreq requests[16];
    struct ifconf all_of_them = {.ifc_len = sizeof requests, .ifc_req = requests};
    TRY("addresses of all", ioctl(0, SIOCGIFCONF, &all_of_them));
    TRY("hardware addresses", (strcpy(request.ifr_name, "lo"), ioctl(0, SIOCGIFHWADDR, &request)));
    int ns = ioctl(0, 0x894c);
    met("its network namespace (SIOCGSKNS)", ns < 0 ? errno : 0);
}

ATTEMPT(netlink) {
    static const int kinds[] = {NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT, NETLINK_USERSOCK, NETLINK_SOCK_DIAG, NETLINK_GENERIC};
    static const char *names[] = {"route", "uevent", "usersock", "sock_diag", "generic"};
    for (int i = 0; i < 5; i++)
        TRY(names[i], socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, kinds[i]));
}

ATTEMPT(raw_sockets) {
    TRY("packet", socket(AF_PACKET, SOCK_RAW, htons(3)));
    TRY("raw ICMP", socket(AF_INET, SOCK_RAW, 1));
    TRY("raw IPv6", socket(AF_INET6, SOCK_RAW, 58));
    TRY("ping", socket(AF_INET, SOCK_DGRAM, 1));
}

ATTEMPT(odd_families) {
    static const struct { const char *name; int family, type; } families[] = {
        {"vsock", AF_VSOCK, SOCK_STREAM}, {"alg", AF_ALG, SOCK_SEQPACKET}, {"bluetooth", AF_BLUETOOTH, SOCK_RAW},
        {"can", AF_CAN, SOCK_RAW}, {"tipc", AF_TIPC, SOCK_RDM}, {"rds", 21, SOCK_SEQPACKET}, {"xdp", 44, SOCK_RAW},
        {"smc", 43, SOCK_STREAM}, {"qipcrtr", 42, SOCK_DGRAM}, {"key", AF_KEY, SOCK_RAW}, {"llc", 26, SOCK_STREAM},
        {"ax25", AF_AX25, SOCK_SEQPACKET}, {"phonet", 35, SOCK_DGRAM}, {"kcm", 41, SOCK_DGRAM}};
    for (unsigned i = 0; i < sizeof families / sizeof *families; i++)
        TRY(families[i].name, socket(families[i].family, families[i].type, 0));
}

ATTEMPT(own_interfaces) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    TRY("lo up", ioctl(fd, SIOCSIFFLAGS, &request));
    TRY("/dev/net/tun", opens("/dev/net/tun", O_RDWR));
}

static int lines(const char *path) {
    char text[8192];
    int fd = open(path, O_RDONLY), found = 0;
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text);
    for (ssize_t i = 0; i < length; i++)
        found += text[i] == '\n';
    close(fd);
    return found;
}

ATTEMPT(network_tables) {
    seen("TCP sockets", lines("/proc/self/net/tcp") > 1);
    seen("interfaces", lines("/proc/self/net/dev") > 3 || lines("/proc/self/net/route") > 1);
    char text[65536];
    int fd = open("/proc/self/net/unix", O_RDONLY);
    ssize_t length, total = 0;
    while (fd >= 0 && total < (ssize_t)sizeof text - 1 && (length = read(fd, text + total, sizeof text - 1 - total)) > 0)
        total += length;
    text[total] = 0;
    seen("unix sockets", strstr(text, given("HOST_ABSTRACT")) || strstr(text, "/run/"));
}

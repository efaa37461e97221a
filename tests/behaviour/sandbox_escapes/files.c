// Ways to files of the host.

static int creates(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, given("ID"));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    unlink(path);
    close(fd);
    return 0;
}

ATTEMPT(write_outside_tmp) {
    static const char *places[] = {"/", "/usr", "/usr/bin", "/etc", "/bin", "/lib", "/dev", "/run", "/var", "/home", "/root",
                                   "/opt", "/srv", "/mnt", "/sys", "/proc", "/proc/self/root", "/proc/1/root/usr", "/boot"};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
        TRY(places[i], creates(places[i]));
    TRY("the programs shown", creates(given("HERE")));
}

// Whatever is mounted, by its own list.
ATTEMPT(write_any_mount) {
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    char line[8192], at[4096];
    int count = 0;
    while (mounts && fgets(line, sizeof line, mounts)) {
        if (sscanf(line, "%*s %*s %*s %*s %4095s", at) != 1)
            continue;
        // Its own, and what is shared.
        if (!strcmp(at, given("SHARED")) || !strcmp(at, "/tmp") || !strcmp(at, "/dev/shm") || !strcmp(at, "/var/tmp"))
            continue;
        struct stat state;
        if (stat(at, &state) == 0 && S_ISDIR(state.st_mode)) {
            TRY(at, creates(at));
            count++;
        }
    }
    if (mounts)
        fclose(mounts);
    if (!count)
        say("mounts: none\n");
}

ATTEMPT(change_shown_files) {
    // One that the user outside owns.
    char file[4096], other[4096], root[4200];
    snprintf(file, sizeof file, "%s/target", given("HERE"));
    snprintf(other, sizeof other, "%s/other", given("HERE"));
    snprintf(root, sizeof root, "/proc/1/root%s", file);
    TRY("write", opens(file, O_WRONLY));
    TRY("write, by the root of process 1", opens(root, O_WRONLY));
    TRY("truncate", truncate(file, 3));
    struct stat state;
    stat(file, &state);
    TRY("mode", chmod(file, state.st_mode & 07777));
    TRY("owner", chown(file, state.st_uid, state.st_gid));
    struct timespec times[2] = {state.st_atim, state.st_mtim};
    TRY("times", utimensat(AT_FDCWD, file, times, 0));
    TRY("attribute", setxattr(file, "user.left", "x", 1, XATTR_REPLACE) < 0 && errno != ENODATA ? -1 : 0);
    TRY("rename", rename(file, other) < 0 ? -1 : rename(other, file));
    TRY("link", link(file, other) < 0 ? -1 : unlink(other));
    snprintf(other, sizeof other, "/tmp/%s", given("ID"));
    TRY("link to /tmp", link(file, other) < 0 ? -1 : unlink(other));
    TRY("remove", unlink(file) < 0 ? -1 : (close(creat(file, 0644)), 0));
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    TRY("a descriptor reopened", opens(path, O_WRONLY));
    // FS_IOC_GETFLAGS and FS_IOC_SETFLAGS
    int flags = 0;
    ioctl(fd, 0x80086601, &flags);
    TRY("flags", ioctl(fd, 0x40086602, &flags));
}

ATTEMPT(fill_tmp) {
    int fd = open("/tmp/fill", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    unlink("/tmp/fill");
    static char block[1 << 20];
    int count = 0;
    while (count < 300 && write(fd, block, sizeof block) == sizeof block)
        count++;
    met("300 MiB", count == 300 ? 0 : errno ? errno : ENOSPC);
    TRY("1 GiB at once", posix_fallocate(fd, 0, 1 << 30) ? (errno = ENOSPC, -1) : 0);
}

ATTEMPT(fill_tmp_with_names) {
    char path[64];
    int count = 0;
    mkdir("/tmp/names", 0700);
    int most = number("NAMES");
    for (; count < most; count++) {
        snprintf(path, sizeof path, "/tmp/names/%d", count);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            break;
        close(fd);
    }
    met("empty files", count == most ? 0 : errno);
    while (count-- > 0) {
        snprintf(path, sizeof path, "/tmp/names/%d", count);
        unlink(path);
    }
    rmdir("/tmp/names");
}

ATTEMPT(host_files) {
    TRY("a file of the host", opens(given("HOST_FILE"), O_RDONLY));
    static const char *files[] = {"/etc/shadow", "/etc/gshadow", "/root/.", "/var/log/.", "/var/lib/dpkg/status",
                                  "/proc/1/root/root/.", "/proc/1/cwd/root/.", "/etc/fstab", "/etc/apt/."};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
        TRY(files[i], opens(files[i], O_RDONLY));
}

ATTEMPT(roots_of_processes) {
    static const char *roots[] = {"/proc/1/root", "/proc/self/root/../..", "/proc/self/cwd/../../../../..", "/proc/thread-self/root",
                                  "/proc/self/fd/0/..", "/proc/self/fd/2/../../..", "/..", "/proc/self/task/1/root", "/dev/fd/.."};
    char path[4096];
    for (unsigned i = 0; i < sizeof roots / sizeof *roots; i++) {
        snprintf(path, sizeof path, "%s%s", roots[i], given("HOST_FILE"));
        TRY(roots[i], opens(path, O_RDONLY));
    }
}

ATTEMPT(leave_by_descriptor) {
    // A directory, kept while the root is changed to another below it.
    int up = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mkdir("/tmp/cell", 0700);
    (void)!chroot("/tmp/cell");
    if (fchdir(up) == 0)
        for (int i = 0; i < 20; i++)
            (void)!chdir("..");
    const char *file = given("HOST_FILE");
    TRY("the file above", opens(*file ? file + 1 : "none", O_RDONLY));
    TRY("chroot", chroot("."));
    rmdir("/tmp/cell");
}

ATTEMPT(descriptors) {
    int foreign = 0;
    for (int fd = 3; fd < 4096; fd++)
        foreign += fcntl(fd, F_GETFD) >= 0;
    seen("descriptors besides 0, 1 and 2", foreign);
    for (int fd = 0; fd < 3; fd++) {
        struct stat state;
        fstat(fd, &state);
        seen(fd == 0 ? "0 is a file or directory" : fd == 1 ? "1 is a file or directory" : "2 is a file or directory",
             S_ISREG(state.st_mode) || S_ISDIR(state.st_mode));
    }
    // What the log's descriptor leads to.
    TRY("2 reopened to read", opens("/proc/self/fd/2", O_RDONLY));
    TRY("2 reopened to read and write", opens("/proc/self/fd/2", O_RDWR));
    TRY("2 by /dev/stderr", opens("/dev/stderr", O_RDONLY));
}

ATTEMPT(handles) {
    // The root of the file system, by its usual handle, as the exploit of 2014 did.
    struct { struct file_handle head; unsigned char bytes[8]; } handle = {{.handle_bytes = 8, .handle_type = 1}, {2}};
    int at = open("/usr", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    REACH("open_by_handle_at", open_by_handle_at(at, (struct file_handle *)&handle, O_RDONLY));
}

ATTEMPT(devices) {
    static const char *devices[] = {"/dev/mem", "/dev/kmsg", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vda",
                                    "/dev/sda", "/dev/loop-control", "/dev/tty0", "/dev/console", "/dev/userfaultfd", "/dev/vsock",
                                    "/dev/ptmx", "/dev/mqueue/.", "/dev/mapper/control", "/dev/rtc0", "/dev/hwrng", "/dev/uinput"};
    for (unsigned i = 0; i < sizeof devices / sizeof *devices; i++)
        TRY(devices[i], opens(devices[i], O_RDONLY));
    DIR *dev = opendir("/dev");
    static const char *expected[] = {".", "..", "null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout",
                                     "stderr", "shm"};
    int odd = 0;
    for (struct dirent *entry; dev && (entry = readdir(dev));) {
        int known = 0;
        for (unsigned i = 0; i < sizeof expected / sizeof *expected; i++)
            known |= !strcmp(entry->d_name, expected[i]);
        if (!known)
            dprintf(2, "attempt devices: %s\n", entry->d_name);
        odd += !known;
    }
    seen("others in /dev", odd);
}

ATTEMPT(make_devices) {
    TRY("block", mknod("/tmp/vda", S_IFBLK | 0600, 0xfe00) < 0 ? -1 : unlink("/tmp/vda"));
    TRY("character", mknod("/tmp/mem", S_IFCHR | 0600, 0x101) < 0 ? -1 : unlink("/tmp/mem"));
    // A whiteout is a device with number 0, which anybody may make, and which opens nothing.
}

ATTEMPT(links_in_shared_directory) {
    const char *shared = given("SHARED");
    char link[4096];
    snprintf(link, sizeof link, "%s/link", shared);
    unlink(link);
    if (symlink(given("HOST_FILE"), link) < 0)
        met("a link there", errno);
    TRY("read by a link", opens(link, O_RDONLY));
    TRY("write by a link", opens(link, O_WRONLY));
    unlink(link);
    // Out of it by its own names.
    char path[4096];
    snprintf(path, sizeof path, "%s/../../../../../../..%s", shared, given("HOST_FILE"));
    TRY("by ..", opens(path, O_RDONLY));
    char target[4096];
    snprintf(target, sizeof target, "%s/target", given("HERE"));
    snprintf(path, sizeof path, "%s/linked", shared);
    TRY("a hard link of a shown file", linkat(AT_FDCWD, target, AT_FDCWD, path, 0) < 0 ? -1 : unlink(path));
    int fd = open(target, O_PATH | O_CLOEXEC);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    TRY("the same by descriptor", linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -1 : unlink(path));
}

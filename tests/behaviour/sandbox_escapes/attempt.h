// What all attempts use. An attempt is a function that prints a line for each of its tries: what it tried, and what it
// met: "got", the name of an error or a signal, or "nothing" where it has looked and found nothing of others.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

struct attempt {
    const char *name;
    void (*run)(void);
    struct attempt *next;
};
static struct attempt *all;

#define ATTEMPT(name)                                                                 \
    static void attempt_##name(void);                                                 \
    __attribute__((constructor)) static void add_##name(void) {                       \
        static struct attempt this = {#name, attempt_##name, NULL};                   \
        this.next = all;                                                              \
        all = &this;                                                                  \
    }                                                                                 \
    static void attempt_##name(void)

// Whether lines go to the log, since the connection is used up.
static const char *by_log;

// One write for each line, so that children don't write it again.
static void say(const char *form, ...) {
    char line[4096];
    int start = by_log ? snprintf(line, sizeof line, "attempt %s: ", by_log) : 0;
    va_list words;
    va_start(words, form);
    int length = start + vsnprintf(line + start, sizeof line - start, form, words);
    va_end(words);
    if (write(by_log ? 2 : 1, line, length) != length)
        _exit(3);
}

static void met(const char *what, int error) {
    const char *name = strerrorname_np(error);
    say("%s: %s\n", what, error == 0 ? "got" : name ? name : "unknown");
}

// A call that is a way out if it succeeds.
#define TRY(what, call)                              \
    ({                                               \
        errno = 0;                                   \
        long result_ = (long)(call);                 \
        met(what, result_ == -1 ? errno : 0);        \
        result_;                                     \
    })

// A call with arguments that do no harm: the kernel may not get as far as to look at them.
#define REACH(what, call)                                                               \
    do {                                                                                \
        errno = 0;                                                                      \
        long result_ = (long)(call);                                                    \
        int refused_ = errno == EPERM || errno == EACCES || errno == ENOSYS;            \
        met(what, result_ == -1 && refused_ ? errno : 0);                               \
    } while (0)

// Something of others that may or may not be seen.
static void seen(const char *what, int found) {
    say("%s: %s\n", what, found ? "got" : "nothing");
}

// A part of the attempt in a child, which may be killed for it.
static void apart(const char *what, void (*run)(void)) {
    pid_t child = fork();
    if (child == 0) {
        run();
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        met(what, errno);
    else if (WIFSIGNALED(status))
        say("%s: SIG%s\n", what, sigabbrev_np(WTERMSIG(status)));
}

// A word of the context: something of the host's or of another connection's.
static const char *given(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static long number(const char *name) { return strtol(given(name), NULL, 0); }

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static socklen_t abstract(struct sockaddr_un *address, const char *name) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t length = strlen(name);
    memcpy(address->sun_path + 1, name, length);
    return offsetof(struct sockaddr_un, sun_path) + 1 + length;
}

static socklen_t at_path(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    snprintf(address->sun_path, sizeof address->sun_path, "%.107s", path);
    return sizeof *address;
}

static struct sockaddr_in ipv4(const char *address, int port) {
    struct sockaddr_in it = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &it.sin_addr);
    return it;
}

/* Loaded before the C library: calls on files whose path holds FAIL_PATH fail, from the FAIL_FROM-th on, FAIL_TIMES in a
   row, with the error FAIL_ERRNO; if that is 0, the process is killed at once instead. FAIL_CALLS names the calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long number(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
}

static int fails(const char *call, const char *path) {
    static long count = 0;
    const char *wanted = getenv("FAIL_PATH"), *calls = getenv("FAIL_CALLS");
    if (!wanted || !calls || !strstr(calls, call) || !strstr(path, wanted)) return 0;
    long turn = ++count - number("FAIL_FROM", 1);
    if (turn < 0 || turn >= number("FAIL_TIMES", LONG_MAX)) return 0;
    errno = (int)number("FAIL_ERRNO", EIO);
    if (!errno) kill(getpid(), SIGKILL);
    return 1;
}

static int fails_on(const char *call, int file) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return readlink(link, path, sizeof path - 1) >= 0 && fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                      \
    int name(const char *path, int flags, ...) {                        \
        va_list rest;                                                   \
        va_start(rest, flags);                                          \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                   \
        return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ssize_t pread(int file, void *data, size_t size, off_t at) {
    return fails_on("read", file) ? -1 : REAL(pread)(file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off64_t at) {
    return fails_on("read", file) ? -1 : REAL(pread64)(file, data, size, at);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return fails_on("write", file) ? -1 : REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return fails_on("write", file) ? -1 : REAL(pwrite64)(file, data, size, at);
}
int fsync(int file) { return fails_on("sync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fails_on("sync", file) ? -1 : REAL(fdatasync)(file); }
int unlink(const char *path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }
int rename(const char *from, const char *to) { return fails("rename", from) ? -1 : REAL(rename)(from, to); }
int link(const char *from, const char *to) { return fails("link", from) ? -1 : REAL(link)(from, to); }

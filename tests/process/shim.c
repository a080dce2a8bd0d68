/* What a process believes of its disk and its clock; loaded with LD_PRELOAD. Linux with glibc.
 *
 *   EQUIPOISE_SHIM_DIR    what is written under it to paths with /journal/ or /checkpoints/ in them is held back
 *                         in memory until fdatasync or fsync: to kill the process is to cut the power
 *   EQUIPOISE_SHIM_ALL    as above, every file under it
 *   EQUIPOISE_SHIM_TEAR   of what is held back, random sectors of 512 bytes reach the disk at once
 *   EQUIPOISE_SHIM_LIE    fdatasync says yes and does nothing: what tests must notice
 *   EQUIPOISE_SHIM_DELAY  milliseconds before each fdatasync under the folder
 *   EQUIPOISE_SHIM_STALL  a file that may hold a part of a path: whoever reads such a file waits while it does
 *   EQUIPOISE_SHIM_CLOCK  a file with seconds (int64, native) by which the wall clock is wrong, read at each reading
 *   EQUIPOISE_SHIM_FAIL   "<write|sync> <errno> <part of the path> <n>": such calls fail from the n-th on
 *   EQUIPOISE_SHIM_FAIL_WHILE  a file that may hold such a line, without n: they fail while it does
 *
 * A failed fdatasync loses what was held back, as a kernel does that marks its pages clean. Files are told apart by
 * their inode, so what one descriptor wrote another one reads. Renames, truncations and names are not held back. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct piece {
    struct piece *next;
    off_t offset;
    size_t length;
    unsigned char bytes[];
};

struct held {
    struct held *next;
    dev_t device;
    ino_t inode;
    struct piece *first, **last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct held *all_held;
static const char *folder, *fail_while, *stall;
static int hold_all, tear, lie, delay_ms;
static const int64_t *clock_offset;
static uint64_t random_state = 0x9e3779b97f4a7c15;
static char fail_line[512];
static long fail_from = -1, fail_seen;

__attribute__((constructor)) static void begin(void) {
    folder = getenv("EQUIPOISE_SHIM_DIR");
    hold_all = getenv("EQUIPOISE_SHIM_ALL") != NULL;
    tear = getenv("EQUIPOISE_SHIM_TEAR") != NULL;
    lie = getenv("EQUIPOISE_SHIM_LIE") != NULL;
    random_state ^= (uint64_t)getpid() * 0xbf58476d1ce4e5b9;
    if (getenv("EQUIPOISE_SHIM_DELAY")) delay_ms = atoi(getenv("EQUIPOISE_SHIM_DELAY"));
    fail_while = getenv("EQUIPOISE_SHIM_FAIL_WHILE");
    stall = getenv("EQUIPOISE_SHIM_STALL");
    const char *fail = getenv("EQUIPOISE_SHIM_FAIL");
    if (fail) {
        snprintf(fail_line, sizeof fail_line, "%s", fail);
        char *n = strrchr(fail_line, ' ');
        if (n) { fail_from = atol(n); *n = 0; }
    }
    const char *clock_file = getenv("EQUIPOISE_SHIM_CLOCK");
    if (clock_file) {
        int fd = syscall(SYS_openat, AT_FDCWD, clock_file, O_RDONLY);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) { fprintf(stderr, "shim: no clock file\n"); _exit(99); }
        clock_offset = map;
        close(fd);
    }
}

/* The path of `fd` if it is a file under the folder; 0 if not. */
static int path_of(int fd, char *path, size_t size) {
    char link[64];
    if (!folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int is_held(int fd, const char *path, struct stat *about) {
    if (!hold_all && !strstr(path, "/journal/") && !strstr(path, "/checkpoints/")) return 0;
    return fstat(fd, about) == 0 && S_ISREG(about->st_mode);
}

/* What `line` says about this call: an errno, or 0. */
static int says(const char *line, const char *call, const char *path) {
    char name[16], part[256];
    int code;
    if (sscanf(line, "%15s %d %255s", name, &code, part) != 3) return 0;
    return strcmp(name, call) == 0 && strstr(path, part) ? code : 0;
}

/* What the file `name` holds, if it is there and holds anything. */
static int holds(const char *name, char *line, size_t size) {
    int fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDONLY) : -1;
    if (fd < 0) return 0;
    ssize_t got = syscall(SYS_read, fd, line, size - 1);
    close(fd);
    line[got > 0 ? got : 0] = 0;
    return got > 0;
}

static int fails(const char *call, const char *path) {
    int code;
    if (fail_from >= 0 && (code = says(fail_line, call, path)) && __sync_add_and_fetch(&fail_seen, 1) >= fail_from)
        return code;
    char line[512];
    return holds(fail_while, line, sizeof line) ? says(line, call, path) : 0;
}

static void wait_while_stalled(const char *path) {
    char part[512];
    while (holds(stall, part, sizeof part) && strstr(path, part)) usleep(1000);
}

static struct held *find(const struct stat *about, int make) {
    struct held *held;
    for (held = all_held; held; held = held->next)
        if (held->device == about->st_dev && held->inode == about->st_ino) return held;
    if (!make || !(held = calloc(1, sizeof *held))) return NULL;
    held->device = about->st_dev;
    held->inode = about->st_ino;
    held->last = &held->first;
    held->next = all_held;
    all_held = held;
    return held;
}

static void drop(struct held *held) {
    while (held && held->first) {
        struct piece *piece = held->first;
        held->first = piece->next;
        free(piece);
    }
    if (held) held->last = &held->first;
}

static void forget(const struct stat *about) {
    pthread_mutex_lock(&lock);
    drop(find(about, 0));
    pthread_mutex_unlock(&lock);
}

static ssize_t really_write(int fd, const void *bytes, size_t length, off_t offset) {
    return syscall(SYS_pwrite64, fd, bytes, length, offset);
}

static int coin(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 40 & 1;
}

static ssize_t hold(int fd, const struct stat *about, const unsigned char *bytes, size_t length, off_t offset) {
    struct piece *piece = malloc(sizeof *piece + length);
    if (!piece) { errno = ENOMEM; return -1; }
    piece->next = NULL;
    piece->offset = offset;
    piece->length = length;
    memcpy(piece->bytes, bytes, length);
    pthread_mutex_lock(&lock);
    /* The length is in place at once: that is how a file system with delayed allocation may leave it too. */
    if (offset + (off_t)length > about->st_size && syscall(SYS_ftruncate, fd, offset + (off_t)length) != 0) {
        int code = errno;
        pthread_mutex_unlock(&lock);
        free(piece);
        errno = code;
        return -1;
    }
    struct held *held = find(about, 1);
    *held->last = piece;
    held->last = &piece->next;
    for (off_t at = offset; tear && at < offset + (off_t)length;) {
        off_t end = (at / 512 + 1) * 512;
        if (end > offset + (off_t)length) end = offset + (off_t)length;
        if (coin()) really_write(fd, bytes + (at - offset), end - at, at);
        at = end;
    }
    pthread_mutex_unlock(&lock);
    return length;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    char path[4096];
    struct stat about;
    if (path_of(fd, path, sizeof path)) {
        int code = fails("write", path);
        if (code) { errno = code; return -1; }
        if (is_held(fd, path, &about)) return hold(fd, &about, bytes, length, offset);
    }
    return really_write(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[4096];
    struct stat about;
    if (path_of(fd, path, sizeof path)) {
        int code = fails("write", path);
        if (code) { errno = code; return -1; }
        if (is_held(fd, path, &about)) {
            int append = fcntl(fd, F_GETFL) & O_APPEND;
            off_t at = append ? about.st_size : lseek(fd, 0, SEEK_CUR);
            ssize_t written = hold(fd, &about, bytes, length, at);
            if (written > 0) lseek(fd, at + written, SEEK_SET);
            return written;
        }
    }
    return syscall(SYS_write, fd, bytes, length);
}

static void lay_over(const struct stat *about, unsigned char *into, ssize_t got, off_t offset) {
    pthread_mutex_lock(&lock);
    struct held *held = find(about, 0);
    for (struct piece *piece = held ? held->first : NULL; piece; piece = piece->next) {
        off_t from = piece->offset > offset ? piece->offset : offset;
        off_t to = piece->offset + (off_t)piece->length;
        if (to > offset + got) to = offset + got;
        if (from < to) memcpy(into + (from - offset), piece->bytes + (from - piece->offset), to - from);
    }
    pthread_mutex_unlock(&lock);
}

ssize_t pread64(int fd, void *into, size_t length, off_t offset) {
    char path[4096];
    struct stat about;
    int ours = path_of(fd, path, sizeof path);
    if (ours) wait_while_stalled(path);
    ssize_t got = syscall(SYS_pread64, fd, into, length, offset);
    if (got > 0 && ours && is_held(fd, path, &about)) lay_over(&about, into, got, offset);
    return got;
}

ssize_t pread(int fd, void *into, size_t length, off_t offset) { return pread64(fd, into, length, offset); }

/* What waits, or is held back, is not in the system's cache. */
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    char path[4096], part[512];
    struct stat about;
    int asks = (flags & RWF_NOWAIT) && path_of(fd, path, sizeof path);
    if (asks && ((holds(stall, part, sizeof part) && strstr(path, part)) || is_held(fd, path, &about))) {
        errno = EAGAIN;
        return -1;
    }
    return syscall(SYS_preadv2, fd, parts, count, offset, 0L, flags);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return preadv64v2(fd, parts, count, offset, flags);
}

ssize_t read(int fd, void *into, size_t length) {
    char path[4096];
    struct stat about;
    if (!path_of(fd, path, sizeof path) || !is_held(fd, path, &about)) return syscall(SYS_read, fd, into, length);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t got = syscall(SYS_read, fd, into, length);
    if (got > 0) lay_over(&about, into, got, at);
    return got;
}

static int sync_with(int fd, long call) {
    char path[4096];
    struct stat about;
    if (path_of(fd, path, sizeof path) && fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) {
        struct timespec pause = {delay_ms / 1000, delay_ms % 1000 * 1000000L};
        /* A signal does not shorten it. */
        while (delay_ms && nanosleep(&pause, &pause) && errno == EINTR) {}
        int code = fails("sync", path);
        if (code) {
            forget(&about);
            errno = code;
            return -1;
        }
        if (lie) return 0;
        pthread_mutex_lock(&lock);
        struct held *held = find(&about, 0);
        for (struct piece *piece = held ? held->first : NULL; piece; piece = piece->next)
            for (size_t done = 0; done < piece->length;) {
                ssize_t written = really_write(fd, piece->bytes + done, piece->length - done, piece->offset + done);
                if (written <= 0) { pthread_mutex_unlock(&lock); errno = EIO; return -1; }
                done += written;
            }
        drop(held);
        pthread_mutex_unlock(&lock);
    }
    return syscall(call, fd);
}

int fdatasync(int fd) { return sync_with(fd, SYS_fdatasync); }
int fsync(int fd) { return sync_with(fd, SYS_fsync); }

/* A file that is gone, or cut to nothing, holds nothing: its inode may be another's soon. */
static void gone(int above, const char *name) {
    struct stat about;
    int there = folder && fstatat(above, name, &about, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && S_ISREG(about.st_mode) && about.st_nlink == 1) forget(&about);
}

int unlinkat(int above, const char *name, int flags) {
    gone(above, name);
    return syscall(SYS_unlinkat, above, name, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int renameat(int from_above, const char *from, int to_above, const char *to) {
    gone(to_above, to);
    return syscall(SYS_renameat2, from_above, from, to_above, to, 0);
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int ftruncate64(int fd, off_t length) {
    struct stat about;
    if (folder && length == 0 && fstat(fd, &about) == 0) forget(&about);
    return syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int open_in(int above, const char *name, int flags, mode_t mode) {
    if (flags & O_TRUNC) gone(above, name);
    return syscall(SYS_openat, above, name, flags, mode);
}

/* What follows `flags`, where anything does. */
#define MODE(flags, mode)                         \
    mode_t mode = 0;                              \
    if ((flags) & (O_CREAT | O_TMPFILE)) {        \
        __builtin_va_list rest;                   \
        __builtin_va_start(rest, flags);          \
        mode = __builtin_va_arg(rest, int);       \
        __builtin_va_end(rest);                   \
    }

int openat64(int above, const char *name, int flags, ...) {
    MODE(flags, mode);
    return open_in(above, name, flags, mode);
}

int openat(int above, const char *name, int flags, ...) {
    MODE(flags, mode);
    return open_in(above, name, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode);
    return open_in(AT_FDCWD, path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock_offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *(volatile const int64_t *)clock_offset;
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

/* Makes the system fail a process that it is loaded into (LD_PRELOAD), as a word in shared memory
 * says. The process is the real one; only what libc answers it is another.
 *
 * The control file (FAULTS_CONTROL) holds twelve signed 64-bit numbers:
 *   0  seconds added to the wall clock
 *   1  how many syncs of files of the log still fail with EIO
 *   2  while not 0, syncs of files of the log hang
 *   3  while not 0, the errno with which writes to files of the log fail
 *   4  microseconds that each read of a file of the log takes longer
 *   5  how many calls still claim to have moved more bytes than they were given: code that counts on
 *      it runs out of its buffer, and panics
 *   6  7  the beginning of the name of the thread that 5 and 8 are meant for, zero-padded
 *   8  how many readings of a clock still give a time that can't be: it makes the standard library panic
 *   9  while not 0, 8 is of the wall clock alone
 *  10  microseconds that each sync of a file of the log takes longer
 *  11  while not 0, syncs of files of the state hang
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, 96, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (at != MAP_FAILED) control = at;
}

/* Takes one of a count that is left. */
static int take(int word) {
    int64_t left = control ? control[word] : 0;
    while (left > 0)
        if (__atomic_compare_exchange_n((int64_t *)&control[word], &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 1;
    return 0;
}

static int below(int fd, const char *folder) {
    char link[32], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, folder) != NULL;
}

static int of_log(int fd) {
    return below(fd, "/data/log/");
}

/* Takes so much longer, as long as the word says so. */
static void linger(int word) {
    for (int64_t slept = 0; slept < control[word]; slept += 10000)
        usleep(control[word] - slept < 10000 ? (useconds_t)(control[word] - slept) : 10000);
}

/* Whether this call is to say that it moved more than it did. */
static int lies(int word) {
    char name[17] = {0}, wanted[17] = {0};
    if (!control || control[word] <= 0) return 0;
    memcpy(wanted, (const void *)&control[6], 16);
    prctl(PR_GET_NAME, name);
    return strncmp(name, wanted, strlen(wanted)) == 0 && take(word);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int before_sync(int fd) {
    if (!control) return 0;
    while (control[11] && below(fd, "/data/state/")) usleep(10000);
    if (!of_log(fd)) return 0;
    while (control[2]) usleep(10000);
    linger(10);
    if (!take(1)) return 0;
    errno = EIO;
    return -1;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return before_sync(fd) ? -1 : real(fd);
}

int fsync(int fd) {
    REAL(fsync);
    return before_sync(fd) ? -1 : real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    if (control && control[3] && of_log(fd)) {
        errno = (int)control[3];
        return -1;
    }
    ssize_t wrote = real(fd, bytes, count, at);
    return wrote >= 0 && lies(5) ? (ssize_t)count + 1 : wrote;
}


ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    REAL(pread64);
    if (control && control[4] && of_log(fd)) linger(4);
    ssize_t got = real(fd, bytes, count, at);
    return got >= 0 && lies(5) ? (ssize_t)count + 1 : got;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && control) time->tv_sec += control[0];
    if (result == 0 && !(control && control[9] && clock != CLOCK_REALTIME) && lies(8)) time->tv_nsec = 2000000000;
    return result;
}

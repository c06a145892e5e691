/* What the load generator and the limit server share: the parts of RFC 6455 that they need, and small helpers.
 * Only for measuring: the peers are ours, so nothing here defends itself. */
#ifndef WS_H
#define WS_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static inline double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* A header of a frame: its length, and where the payload lies. */
struct head {
    size_t header, payload;
    unsigned opcode;
    const unsigned char *mask; /* NULL when not masked */
};

/* Read the head of a frame. Returns 0 when more bytes are needed. */
static inline int read_head(const unsigned char *p, size_t have, struct head *h) {
    if (have < 2) return 0;
    size_t at = 2, size = p[1] & 127;
    if (size == 126) {
        if (have < 4) return 0;
        size = (size_t)p[2] << 8 | p[3];
        at = 4;
    } else if (size == 127) {
        if (have < 10) return 0;
        size = 0;
        for (int i = 2; i < 10; i++) size = size << 8 | p[i];
        at = 10;
    }
    h->mask = NULL;
    if (p[1] & 128) {
        if (have < at + 4) return 0;
        h->mask = p + at;
        at += 4;
    }
    h->header = at;
    h->payload = size;
    h->opcode = p[0] & 15;
    return 1;
}

/* Write a frame; `mask` is NULL for a server. Returns its length; `out` has room for 14 bytes more than `size`. */
static inline size_t write_frame(unsigned char *out, unsigned opcode, const void *data, size_t size,
                                 const unsigned char *mask) {
    size_t at = 2;
    unsigned bit = mask ? 128 : 0;
    out[0] = 128 | opcode;
    if (size < 126) {
        out[1] = bit | size;
    } else if (size < 65536) {
        out[1] = bit | 126;
        out[2] = size >> 8;
        out[3] = size;
        at = 4;
    } else {
        out[1] = bit | 127;
        for (int i = 0; i < 8; i++) out[2 + i] = (uint64_t)size >> (56 - 8 * i);
        at = 10;
    }
    if (mask) {
        memcpy(out + at, mask, 4);
        at += 4;
        for (size_t i = 0; i < size; i++) out[at + i] = ((const unsigned char *)data)[i] ^ mask[i & 3];
    } else {
        memcpy(out + at, data, size);
    }
    return at + size;
}

static inline void unmask(unsigned char *p, size_t size, const unsigned char *mask) {
    uint32_t word;
    memcpy(&word, mask, 4);
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        uint32_t w;
        memcpy(&w, p + i, 4);
        w ^= word;
        memcpy(p + i, &w, 4);
    }
    for (; i < size; i++) p[i] ^= mask[i & 3];
}

static inline void set_nonblocking(int fd) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static inline void set_nodelay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline void raise_open_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

#endif

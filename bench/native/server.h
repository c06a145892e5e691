/* What the C servers share: connections, the upgrade, frames, and writes that wait for their turn.
 *
 * In:  `listen_on`, `turn`; what the program defines: `take` for each message
 * Out: `deliver` sends to a connection: at once, or with `joining` all that is due to it in one turn of the loop in one
 *      send. Nothing is queued beyond the kernel's buffers but what a full one leaves over.
 */
#ifndef SERVER_H
#define SERVER_H

#include "ws.h"

#include <signal.h>

#define EVENTS_MAX 1024
#define INPUT_BYTES 131072 /* of one read, and the most of one message */
#define ACCEPT_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

struct conn;

struct channel {
    struct conn **members;
    size_t count, room;
};

/* An idle one has no buffers: `rest` is the unfinished part of what was read, `out` what is still to be sent. */
struct conn {
    int fd, upgraded, dirty;
    int (*receive)(struct conn *c); /* returns 0 when the connection is gone */
    struct channel *channel;
    size_t rest_used, out_used, out_sent, out_room;
    unsigned char *rest, *out;
};

static void take(struct conn *c, const unsigned char *data, size_t size);
static void on_drop(struct conn *c);

static struct conn **dirty;
static size_t dirty_count, dirty_room;
static int epoll_fd, listening_fd, joining;
static unsigned char input[INPUT_BYTES];

/* SHA-1 (FIPS 180-4) of less than 119 bytes, which is all that the handshake needs. */
static void sha1(const unsigned char *data, size_t size, unsigned char out[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char block[128] = {0};
    size_t blocks = size + 9 > 64 ? 2 : 1;
    memcpy(block, data, size);
    block[size] = 0x80;
    for (int i = 0; i < 8; i++) block[blocks * 64 - 1 - i] = (uint64_t)(size * 8) >> (8 * i);
    for (size_t b = 0; b < blocks; b++) {
        uint32_t w[80], a = h[0], c2 = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const unsigned char *p = block + b * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (c2 & c) | (~c2 & d) : i < 40 ? c2 ^ c ^ d : i < 60 ? (c2 & c) | (c2 & d) | (c & d) : c2 ^ c ^ d;
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t t = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d, d = c, c = c2 << 30 | c2 >> 2, c2 = a, a = t;
        }
        h[0] += a, h[1] += c2, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) out[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static void base64(const unsigned char *in, size_t size, char *out) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        uint32_t v = in[i] << 16 | (i + 1 < size ? in[i + 1] << 8 : 0) | (i + 2 < size ? in[i + 2] : 0);
        *out++ = set[v >> 18];
        *out++ = set[v >> 12 & 63];
        *out++ = i + 1 < size ? set[v >> 6 & 63] : '=';
        *out++ = i + 2 < size ? set[v & 63] : '=';
    }
    *out = 0;
}

static void enter(struct channel *channel, struct conn *c) {
    if (channel->count == channel->room)
        channel->members = realloc(channel->members, (channel->room = channel->room * 2 + 1) * sizeof *channel->members);
    channel->members[channel->count++] = c;
    c->channel = channel;
}

static void drop(struct conn *c) {
    on_drop(c);
    for (size_t i = 0; c->channel && i < c->channel->count; i++)
        if (c->channel->members[i] == c) c->channel->members[i] = c->channel->members[--c->channel->count];
    for (size_t i = 0; i < dirty_count; i++)
        if (dirty[i] == c) dirty[i] = dirty[--dirty_count];
    close(c->fd);
    free(c->rest);
    free(c->out);
    free(c);
}

static void watch(struct conn *c, int writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void keep(struct conn *c, const unsigned char *data, size_t size) {
    if (c->out_used + size > c->out_room) {
        c->out_room = (c->out_used + size) * 2;
        c->out = realloc(c->out, c->out_room);
    }
    memcpy(c->out + c->out_used, data, size);
    c->out_used += size;
}

static void flush(struct conn *c) {
    while (c->out_sent < c->out_used) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_used - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) watch(c, 1);
            return;
        }
        c->out_sent += sent;
    }
    c->out_used = c->out_sent = 0;
}

static void deliver(struct conn *c, const unsigned char *data, size_t size) {
    if (joining) {
        if (!c->dirty) {
            c->dirty = 1;
            if (dirty_count == dirty_room) dirty = realloc(dirty, (dirty_room = dirty_room * 2 + 64) * sizeof *dirty);
            dirty[dirty_count++] = c;
        }
        keep(c, data, size);
        return;
    }
    if (c->out_used) {
        keep(c, data, size);
        return;
    }
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return;
    if (sent < 0) sent = 0;
    if ((size_t)sent < size) {
        keep(c, data + sent, size - sent);
        watch(c, 1);
    }
}

/* Returns the length of the request, 0 when there is more to come. */
static size_t upgrade(struct conn *c, unsigned char *request, size_t have) {
    unsigned char *end = memmem(request, have, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *key = strcasestr((char *)request, "\r\nsec-websocket-key:");
    char *protocol = strcasestr((char *)request, "\r\nsec-websocket-protocol:");
    if (!key) exit(2);
    key += strlen("\r\nsec-websocket-key:");
    while (*key == ' ') key++;
    unsigned char text[128], digest[20];
    char accept[40], answer[512], name[64] = "";
    size_t length = strcspn(key, "\r");
    memcpy(text, key, length);
    memcpy(text + length, ACCEPT_GUID, 36);
    sha1(text, length + 36, digest);
    base64(digest, 20, accept);
    if (protocol) {
        protocol += strlen("\r\nsec-websocket-protocol:");
        while (*protocol == ' ') protocol++;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(protocol, "\r,"), protocol);
    }
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
                        accept, *name ? "Sec-WebSocket-Protocol: " : "", name, *name ? "\r\n" : "");
    send(c->fd, answer, size, MSG_NOSIGNAL);
    c->upgraded = 1;
    return end + 4 - request;
}

/* Read behind what is left over. Returns how many bytes are in `input`, 0 when there is nothing new, -1 at the end. */
static ssize_t fill(struct conn *c) {
    if (c->rest_used == INPUT_BYTES) return -1;
    if (c->rest) memcpy(input, c->rest, c->rest_used);
    ssize_t got = recv(c->fd, input + c->rest_used, INPUT_BYTES - c->rest_used, 0);
    if (got > 0) return c->rest_used + got;
    return got < 0 && errno == EAGAIN ? 0 : -1;
}

/* Keep what is unfinished in `input` for the next read. */
static void spare(struct conn *c, size_t at, size_t have) {
    c->rest_used = have - at;
    if (c->rest_used) {
        c->rest = realloc(c->rest, c->rest_used);
        memcpy(c->rest, input + at, c->rest_used);
    } else if (c->rest) {
        free(c->rest);
        c->rest = NULL;
    }
}

static int receive_frames(struct conn *c) {
    ssize_t have = fill(c);
    if (have <= 0) {
        if (have < 0) drop(c);
        return have == 0;
    }
    struct head h;
    size_t at = c->upgraded ? 0 : upgrade(c, input, have);
    while (c->upgraded && read_head(input + at, have - at, &h) && at + h.header + h.payload <= (size_t)have) {
        unsigned char *payload = input + at + h.header;
        at += h.header + h.payload;
        if (h.opcode == 8) {
            drop(c);
            return 0;
        }
        if (h.mask) unmask(payload, h.payload, h.mask);
        take(c, payload, h.payload);
    }
    spare(c, at, have);
    return 1;
}

static struct conn *watch_new(int fd, int (*receive)(struct conn *c)) {
    struct conn *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->receive = receive;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) die("epoll");
    return c;
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(listening_fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        set_nodelay(fd);
        watch_new(fd, receive_frames);
    }
}

/* Listen on 127.0.0.1 (0: on any free port), and say on which port. */
static void listen_on(int port) {
    raise_open_files();
    signal(SIGPIPE, SIG_IGN);
    int one = 1;
    listening_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listening_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listening_fd, (struct sockaddr *)&address, length) || listen(listening_fd, 4096)) die("listen");
    getsockname(listening_fd, (struct sockaddr *)&address, &length);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening_fd, &e);
}

/* One turn of the loop. */
static void turn(void) {
    struct epoll_event events[EVENTS_MAX];
    int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    for (int i = 0; i < ready; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) {
            accept_all();
            continue;
        }
        if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !c->receive(c)) continue;
        if (events[i].events & EPOLLOUT) {
            flush(c);
            if (!c->out_used) watch(c, 0);
        }
    }
    for (size_t i = 0; i < dirty_count; i++) {
        dirty[i]->dirty = 0;
        flush(dirty[i]);
    }
    dirty_count = 0;
}

#endif

/* What C can do on this machine: an epoll WebSocket server that knows nothing of the product.
 *
 * In:  limit PORT [join] [EVENT_BYTES]
 * Out: "listening PORT" once it listens, then nothing; ends on SIGTERM.
 *
 * A message that holds "publish" is acknowledged to its sender and goes, padded to EVENT_BYTES, to every connection that
 * has sent one holding "join"; any other message is sent back. Each message is one send; with `join` what is due to a
 * connection in one turn of the loop is one send. Nothing is queued beyond the kernel's buffers but what a full one
 * leaves over.
 */
#include "ws.h"

#include <signal.h>

#define EVENTS_MAX 1024
#define INPUT_BYTES 16384
#define ACCEPT_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

struct conn {
    int fd, upgraded, member, dirty;
    size_t in_used, out_used, out_sent, out_room;
    unsigned char *in, *out;
};

static struct conn **members;
static size_t members_count, members_room;
static struct conn **dirty;
static size_t dirty_count, dirty_room;
static int epoll_fd, joining;
static unsigned char *event_frame;
static size_t event_size;

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

static void drop(struct conn *c) {
    if (c->member)
        for (size_t i = 0; i < members_count; i++)
            if (members[i] == c) members[i] = members[--members_count];
    for (size_t i = 0; i < dirty_count; i++)
        if (dirty[i] == c) dirty[i] = dirty[--dirty_count];
    close(c->fd);
    free(c->in);
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

static void upgrade(struct conn *c) {
    unsigned char *end = memmem(c->in, c->in_used, "\r\n\r\n", 4);
    if (!end) return;
    *end = 0;
    char *key = strcasestr((char *)c->in, "\r\nsec-websocket-key:");
    char *protocol = strcasestr((char *)c->in, "\r\nsec-websocket-protocol:");
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
    size_t used = end + 4 - c->in;
    memmove(c->in, c->in + used, c->in_used - used);
    c->in_used -= used;
    c->upgraded = 1;
}

static void take(struct conn *c, unsigned char *data, size_t size) {
    static unsigned char out[INPUT_BYTES + 16];
    deliver(c, out, write_frame(out, 1, data, size, NULL));
    if (!c->member && memmem(data, size < 80 ? size : 80, "join", 4)) {
        c->member = 1;
        if (members_count == members_room) members = realloc(members, (members_room = members_room * 2 + 64) * sizeof *members);
        members[members_count++] = c;
    } else if (memmem(data, size < 80 ? size : 80, "publish", 7)) {
        for (size_t i = 0; i < members_count; i++) deliver(members[i], event_frame, event_size);
    }
}

/* Returns 0 when the connection is gone. */
static int receive(struct conn *c) {
    ssize_t got = recv(c->fd, c->in + c->in_used, INPUT_BYTES - c->in_used, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return 1;
        drop(c);
        return 0;
    }
    c->in_used += got;
    if (!c->upgraded) upgrade(c);
    if (!c->upgraded) return 1;
    size_t at = 0;
    struct head h;
    while (read_head(c->in + at, c->in_used - at, &h) && at + h.header + h.payload <= c->in_used) {
        unsigned char *payload = c->in + at + h.header;
        at += h.header + h.payload;
        if (h.opcode == 8) {
            drop(c);
            return 0;
        }
        if (h.mask) unmask(payload, h.payload, h.mask);
        take(c, payload, h.payload);
    }
    memmove(c->in, c->in + at, c->in_used - at);
    c->in_used -= at;
    return 1;
}

static void accept_all(int listening) {
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        set_nodelay(fd);
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->in = malloc(INPUT_BYTES);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int count, char **words) {
    if (count < 2) return 2;
    size_t event_bytes = 200;
    for (int i = 2; i < count; i++) {
        if (strcmp(words[i], "join") == 0) joining = 1;
        else event_bytes = atol(words[i]);
    }
    raise_open_files();
    signal(SIGPIPE, SIG_IGN);
    char *event = malloc(event_bytes);
    memset(event, 'e', event_bytes);
    event_frame = malloc(event_bytes + 14);
    event_size = write_frame(event_frame, 1, event, event_bytes, NULL);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listening, (struct sockaddr *)&address, length) || listen(listening, 4096)) die("listen");
    getsockname(listening, (struct sockaddr *)&address, &length);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_MAX];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening, &e);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                accept_all(listening);
                continue;
            }
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !receive(c)) continue;
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
}

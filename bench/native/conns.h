/* The load generator's connections: opening them, sending on them, and taking their frames apart.
 *
 * In:  the options of load.c, by `set`
 * Out: what the generator defines: `on_reply` and `on_event` for each message on a connection that is open, `on_visit`
 *      when one beyond `connections`, a visitor, has been opened, `on_timer` when a descriptor without one is readable
 */
#ifndef CONNS_H
#define CONNS_H

#include "ws.h"

#define EVENTS_MAX 1024
#define READ_BYTES (256 * 1024)
#define MESSAGE_BYTES_MAX 16384
#define SENT_RING 16
#define SETTLE_S 30.0
#define RETRIES_MAX 100 /* of opening messages that a server under load puts off, in all */
#define DIGITS 9
#define COUNTER "000000000" /* becomes the number of the message */
#define PAIR "#########"    /* becomes the number of the connection's pair */

enum state { CLOSED, CONNECTING, UPGRADING, FIRST, SECOND, READY };

struct conn {
    int fd;
    enum state state;
    unsigned char *rest;
    size_t rest_used;
    double sent[SENT_RING];
    unsigned sent_head, sent_tail;
    uint64_t received, event_bytes;
};

static void on_reply(struct conn *c, size_t size, double now);
static void on_event(struct conn *c, const unsigned char *p, size_t size, double now);
static void on_visit(struct conn *c, double now);
static void on_timer(void);

static struct conn *conns;
static size_t conns_count, opening_max = 64, source = 1, sources = 1, opened, opening_now, closed_count, retries;
static const char *path = "/v1/socket", *subprotocol = "talkmeter.v1.json";
static char *second, *greeting, *second_pair, *greeting_pair;
static const char *event_prefix = "";
static char reply_prefixes[256] = "{\"re|{\"id";
static size_t event_bytes;
static char **first_lines;
static struct sockaddr_in servers[2];
static int epoll_fd;
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
static char message[MESSAGE_BYTES_MAX];
static size_t message_size;
static char *counter, *message_pair;
static uint64_t counted, errors;

static size_t index_of(const struct conn *c) {
    return c - conns;
}

/* Write `n` into the nine digits at `place`; does nothing when there is no place. */
static void number(char *place, uint64_t n) {
    if (place)
        for (int i = DIGITS - 1; i >= 0; i--, n /= 10) place[i] = '0' + n % 10;
}

static void send_text(struct conn *c, const char *text, size_t size) {
    static unsigned char out[MESSAGE_BYTES_MAX + 16];
    size_t length = write_frame(out, 1, text, size, MASK);
    ssize_t sent = send(c->fd, out, length, MSG_NOSIGNAL);
    if (sent != (ssize_t)length && errno != EPIPE && errno != ECONNRESET) die("send");
}

static void send_message(struct conn *c) {
    number(counter, ++counted);
    number(message_pair, index_of(c) / 2);
    send_text(c, message, message_size);
}

/* Send the opening message that this connection's state is about. */
static void send_opening(struct conn *c) {
    const char *text = c->state == SECOND ? second : first_lines ? first_lines[index_of(c)] : greeting;
    number(c->state == SECOND ? second_pair : first_lines ? NULL : greeting_pair, index_of(c) / 2);
    send_text(c, text, strlen(text));
}

static void drop(struct conn *c) {
    if (c->state != READY) opening_now--;
    c->state = CLOSED;
    close(c->fd);
    free(c->rest);
    c->rest = NULL;
    c->rest_used = 0;
}

/* With two servers the members of a pair, 2p and 2p + 1, are on different ones, and each other pair the other way round. */
static const struct sockaddr_in *server_of(const struct conn *c) {
    return &servers[servers[1].sin_port ? (index_of(c) ^ index_of(c) >> 1) & 1 : 0];
}

/* Open connection `index`; it goes on in `writable`. */
static void start(size_t index) {
    struct conn *c = &conns[index];
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    set_nodelay(c->fd);
    if (source > 1 || sources > 1) {
        int one = 1;
        setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + source + index % sources)};
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    }
    if (connect(c->fd, (const struct sockaddr *)server_of(c), sizeof *servers) && errno != EINPROGRESS) die("connect");
    c->state = CONNECTING;
    c->sent[0] = now_s();
    opening_now++;
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void writable(struct conn *c) {
    char request[512];
    int failure = 0;
    socklen_t length = sizeof failure;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &failure, &length);
    if (failure) {
        errno = failure;
        die("connect");
    }
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Protocol: %s\r\n\r\n",
                        path, inet_ntoa(server_of(c)->sin_addr), ntohs(server_of(c)->sin_port), subprotocol);
    if (send(c->fd, request, size, MSG_NOSIGNAL) != size) die("send");
    c->state = UPGRADING;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* What comes next in opening a connection. */
static void advance(struct conn *c) {
    if (c->state == UPGRADING && (first_lines || greeting)) {
        c->state = FIRST;
        send_opening(c);
    } else if (c->state < SECOND && second) {
        c->state = SECOND;
        send_opening(c);
    } else {
        c->state = READY;
        opening_now--;
        opened++;
    }
}

static void complain(const char *what, const unsigned char *p, size_t size) {
    fprintf(stderr, "%s: %.*s\n", what, (int)(size < 600 ? size : 600), p);
}

static int begins(const unsigned char *p, size_t size, const char *prefix, size_t length) {
    return size >= length && memcmp(p, prefix, length) == 0;
}

static int is_reply(const unsigned char *p, size_t size) {
    for (const char *at = reply_prefixes; *at;) {
        size_t length = strcspn(at, "|");
        if (begins(p, size, at, length)) return 1;
        at += length + (at[length] == '|');
    }
    return 0;
}

static void take_text(struct conn *c, const unsigned char *p, size_t size, double now) {
    if (!is_reply(p, size)) {
        if (c->state == READY && begins(p, size, event_prefix, strlen(event_prefix))) on_event(c, p, size, now);
        return;
    }
    if (memmem(p, size < 60 ? size : 60, "\"error\":", 8)) {
        if (c->state != READY && retries < RETRIES_MAX && memmem(p, size, "\"retryable\":true", 16)) {
            retries++;
            send_opening(c);
            return;
        }
        if (errors++ == 0) complain("error reply", p, size);
        if (c->state != READY) exit(3);
    }
    if (c->state != READY) advance(c);
    else on_reply(c, size, now);
}

/* Take the answer to the upgrade. Returns its length, 0 when there is more to come. */
static size_t take_upgrade(const unsigned char *p, size_t size) {
    const unsigned char *end = memmem(p, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(p, "HTTP/1.1 101", 12)) {
        complain("not upgraded", p, size);
        exit(3);
    }
    return end + 4 - p;
}

static void pong(struct conn *c, const unsigned char *payload, size_t size) {
    unsigned char out[160];
    if (send(c->fd, out, write_frame(out, 10, payload, size, MASK), MSG_NOSIGNAL) < 0) die("send");
}

static void end_by_server(struct conn *c, const unsigned char *payload, size_t size) {
    if (closed_count++ == 0)
        fprintf(stderr, "closed by the server: %d %.*s\n", payload[0] << 8 | payload[1], (int)size - 2, payload + 2);
    if (c->state != READY) exit(3);
    drop(c);
}

static void take_frames(struct conn *c, const unsigned char *p, size_t size) {
    size_t at = 0;
    struct head h;
    double now = now_s();
    if (c->state == UPGRADING && (at = take_upgrade(p, size))) advance(c);
    for (;;) {
        if (c->state == READY && index_of(c) >= conns_count) {
            on_visit(c, now);
            return;
        }
        if (c->state == UPGRADING || !read_head(p + at, size - at, &h) || at + h.header + h.payload > size) break;
        const unsigned char *payload = p + at + h.header;
        at += h.header + h.payload;
        if (h.opcode <= 2) {
            take_text(c, payload, h.payload, now);
        } else if (h.opcode == 9) {
            pong(c, payload, h.payload);
        } else if (h.opcode == 8) {
            end_by_server(c, payload, h.payload);
            return;
        }
    }
    c->rest_used = size - at;
    if (c->rest_used) {
        c->rest = realloc(c->rest, c->rest_used);
        memmove(c->rest, p + at, c->rest_used);
    }
}

static void readable(struct conn *c) {
    static unsigned char buffer[READ_BYTES * 2];
    size_t kept = c->rest_used;
    memcpy(buffer, c->rest, kept);
    ssize_t got = recv(c->fd, buffer + kept, READ_BYTES, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (closed_count++ == 0) fprintf(stderr, "connection lost in state %d: %s\n", c->state, got ? strerror(errno) : "end");
        if (c->state != READY) exit(3);
        drop(c);
        return;
    }
    c->rest_used = 0;
    take_frames(c, buffer, kept + got);
}

/* One turn of the loop; what is watched without a connection is the timer. */
static void turn(int timeout_ms) {
    struct epoll_event ready[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, ready, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct conn *c = ready[i].data.ptr;
        if (!c) on_timer();
        else if (c->state == CONNECTING) writable(c);
        else if (c->state != CLOSED) readable(c);
    }
}

#endif

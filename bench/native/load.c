/* The load generator: one thread, one epoll, many WebSocket connections.
 *
 * In:  load HOST PORT NAME=VALUE...
 *        connections=N   sockets to open                  path=/v1/socket    subprotocol=talkmeter.v1.json
 *        first=FILE      line i is the first message of connection i; its reply must be no error
 *        greeting=TEXT   the first message of every connection, instead of a file
 *        second=TEXT     a second message of each, likewise
 *        message=TEXT    what is sent under load; the first run of nine zeros in it counts up
 *        opening=N       connections that are being opened at a time (64)
 *        reply=A|B       what replies begin with ({"re|{"id); anything else is an event, once the connection is open
 *        event=TEXT      what events begin with; other frames are ignored (all are events)
 *        event_bytes=N   events have N bytes, however they are packed into frames
 *        source=N        last number of the first source address, 127.0.0.N (1)
 *        sources=N       so many source addresses, since each has 28,000 ports (1)
 *      then commands, one a line, on standard input:
 *        echo SECONDS RATE         one message in flight for each connection, or RATE messages a second in all
 *        fanout SECONDS P N        P connections publish in turn, N messages in flight for each; all are due at all
 *        handshakes SECONDS        open and drop connections all the time, `opening` at once
 *        quit
 * Out: one JSON object a line: when all connections are open, and for each command.
 *
 * The limit server sends requests back, so {"id" begins a reply, too.
 */
#include "ws.h"

#define EVENTS_MAX 1024
#define READ_BYTES (256 * 1024)
#define MESSAGE_BYTES_MAX 16384
#define SENT_RING 16
#define FAN_RING 65536
#define HISTOGRAM_US 2000000
#define SETTLE_S 30.0
#define RETRIES_MAX 100 /* of opening messages that a server under load puts off, in all */

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

static struct conn *conns;
static size_t conns_count, opening_max = 64, source = 1, sources = 1, opened, opening_now, closed_count, retries;
static const char *path = "/v1/socket", *subprotocol = "talkmeter.v1.json", *second = NULL, *greeting = NULL;
static const char *event_prefix = "";
static char reply_prefixes[256] = "{\"re|{\"id";
static size_t event_bytes;
static char **first_lines;
static struct sockaddr_in server;
static int epoll_fd, dropping;
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
static char message[MESSAGE_BYTES_MAX];
static size_t message_size;
static char *counter;
static uint64_t counted;
static uint64_t replies, errors, events, bytes, handshakes;
static uint32_t histogram[HISTOGRAM_US + 1];
static double fan_sent[FAN_RING];
static uint64_t published;
static int mode_echo, mode_fanout, paced;

static void send_text(struct conn *c, const char *text, size_t size) {
    static unsigned char out[MESSAGE_BYTES_MAX + 16];
    size_t length = write_frame(out, 1, text, size, MASK);
    ssize_t sent = send(c->fd, out, length, MSG_NOSIGNAL);
    if (sent != (ssize_t)length && errno != EPIPE && errno != ECONNRESET) die("send");
}

static void send_message(struct conn *c) {
    if (counter) {
        uint64_t n = ++counted;
        for (int i = 8; i >= 0; i--, n /= 10) counter[i] = '0' + n % 10;
    }
    send_text(c, message, message_size);
}

static void send_echo(struct conn *c, double now) {
    c->sent[c->sent_head++ % SENT_RING] = now;
    send_message(c);
}

static void note_latency(double seconds) {
    double us = seconds * 1e6;
    histogram[us < 0 ? 0 : us > HISTOGRAM_US ? HISTOGRAM_US : (uint32_t)us]++;
}

static void drop(struct conn *c) {
    if (c->state != READY) opening_now--;
    c->state = CLOSED;
    close(c->fd);
    free(c->rest);
    c->rest = NULL;
    c->rest_used = 0;
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
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) die("connect");
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
                        path, inet_ntoa(server.sin_addr), ntohs(server.sin_port), subprotocol);
    if (send(c->fd, request, size, MSG_NOSIGNAL) != size) die("send");
    c->state = UPGRADING;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* What comes next in opening a connection. */
static void advance(struct conn *c) {
    size_t index = c - conns;
    const char *first = first_lines ? first_lines[index] : greeting;
    if (c->state == UPGRADING && first) {
        c->state = FIRST;
        send_text(c, first, strlen(first));
    } else if (c->state < SECOND && second) {
        c->state = SECOND;
        send_text(c, second, strlen(second));
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

static void take_events(struct conn *c, const unsigned char *p, size_t size, double now) {
    if (c->state != READY || !begins(p, size, event_prefix, strlen(event_prefix))) return;
    uint64_t count = 1;
    bytes += size;
    c->event_bytes += size;
    if (event_bytes) count = c->event_bytes / event_bytes, c->event_bytes %= event_bytes;
    events += count;
    for (; count; count--, c->received++)
        if (mode_fanout) note_latency(now - fan_sent[c->received % FAN_RING]);
}

static void take_text(struct conn *c, const unsigned char *p, size_t size, double now) {
    if (!is_reply(p, size)) {
        take_events(c, p, size, now);
        return;
    }
    if (memmem(p, size < 60 ? size : 60, "\"error\":", 8)) {
        if (c->state != READY && retries < RETRIES_MAX && memmem(p, size, "\"retryable\":true", 16)) {
            const char *again = c->state == SECOND ? second : first_lines ? first_lines[c - conns] : greeting;
            retries++;
            send_text(c, again, strlen(again));
            return;
        }
        if (errors++ == 0) complain("error reply", p, size);
        if (c->state != READY) exit(3);
    }
    if (c->state != READY) {
        advance(c);
        return;
    }
    replies++;
    bytes += size;
    if (c->sent_tail != c->sent_head) note_latency(now - c->sent[c->sent_tail++ % SENT_RING]);
    if (mode_echo && !paced) send_echo(c, now);
}

static void take_frames(struct conn *c, const unsigned char *p, size_t size) {
    size_t at = 0;
    struct head h;
    double now = now_s();
    if (c->state == UPGRADING) {
        const unsigned char *end = memmem(p, size, "\r\n\r\n", 4);
        if (end) {
            if (memcmp(p, "HTTP/1.1 101", 12)) {
                complain("not upgraded", p, size);
                exit(3);
            }
            at = end + 4 - p;
            handshakes++;
            if (dropping) {
                note_latency(now - c->sent[0]);
                struct linger hard = {1, 0}; /* no TIME_WAIT: ports would run out in seconds */
                setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
                drop(c);
                start(c - conns);
                return;
            }
            advance(c);
        } else {
            at = 0;
            goto rest;
        }
    }
    while (read_head(p + at, size - at, &h) && at + h.header + h.payload <= size) {
        const unsigned char *payload = p + at + h.header;
        at += h.header + h.payload;
        if (h.opcode <= 2) {
            take_text(c, payload, h.payload, now);
        } else if (h.opcode == 9) {
            unsigned char pong[160];
            size_t length = write_frame(pong, 10, payload, h.payload, MASK);
            if (send(c->fd, pong, length, MSG_NOSIGNAL) < 0) die("send");
        } else if (h.opcode == 8) {
            if (closed_count++ == 0)
                fprintf(stderr, "closed by the server: %d %.*s\n", payload[0] << 8 | payload[1], (int)h.payload - 2, payload + 2);
            if (c->state != READY) exit(3);
            drop(c);
            return;
        }
    }
rest:
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

static void turn(int timeout_ms) {
    struct epoll_event ready[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, ready, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct conn *c = ready[i].data.ptr;
        if (c->state == CONNECTING) writable(c);
        else if (c->state != CLOSED) readable(c);
    }
}

static double quantile(uint64_t total, double q) {
    uint64_t wanted = (uint64_t)(total * q), seen = 0;
    for (size_t us = 0; us <= HISTOGRAM_US; us++) {
        seen += histogram[us];
        if (seen > wanted) return us;
    }
    return 0;
}

static void report(const char *what, double seconds, double cpu) {
    uint64_t total = 0;
    for (size_t us = 0; us <= HISTOGRAM_US; us++) total += histogram[us];
    printf("{\"what\":\"%s\",\"seconds\":%.6f,\"cpu_s\":%.6f,\"replies\":%llu,\"events\":%llu,\"published\":%llu,"
           "\"handshakes\":%llu,\"bytes\":%llu,\"errors\":%llu,\"closed\":%zu,\"p50_us\":%.0f,\"p99_us\":%.0f}\n",
           what, seconds, cpu, (unsigned long long)replies, (unsigned long long)events, (unsigned long long)published,
           (unsigned long long)handshakes, (unsigned long long)bytes, (unsigned long long)errors, closed_count,
           quantile(total, 0.5), quantile(total, 0.99));
    fflush(stdout);
    memset(histogram, 0, sizeof histogram);
    replies = events = bytes = errors = handshakes = published = 0;
}

static void run_echo(double seconds, double rate) {
    double began = now_s(), cpu = cpu_s(), now = began;
    uint64_t sent = 0, skipped = 0;
    size_t next = 0;
    mode_echo = 1;
    paced = rate > 0;
    if (!paced)
        for (size_t i = 0; i < conns_count; i++)
            if (conns[i].state == READY) send_echo(&conns[i], now);
    while ((now = now_s()) - began < seconds) {
        if (paced)
            for (uint64_t due = (now - began) * rate; sent + skipped < due;) {
                struct conn *c = &conns[next++ % conns_count];
                if (c->state == READY && c->sent_head - c->sent_tail < SENT_RING) send_echo(c, now), sent++;
                else skipped++;
            }
        turn(paced ? 1 : 100);
    }
    mode_echo = 0;
    report("echo", now_s() - began, cpu_s() - cpu);
    for (double end = now_s() + 2; now_s() < end;) { /* what is still in flight */
        size_t waiting = 0;
        for (size_t i = 0; i < conns_count; i++) waiting += conns[i].state == READY && conns[i].sent_head != conns[i].sent_tail;
        if (!waiting) break;
        turn(10);
    }
    memset(histogram, 0, sizeof histogram);
    replies = bytes = 0;
}

static void run_fanout(double seconds, size_t publishers, size_t in_flight) {
    double began = now_s(), cpu = cpu_s();
    mode_fanout = 1;
    for (size_t i = 0; i < conns_count; i++) conns[i].received = 0;
    while (now_s() - began < seconds) {
        size_t members = opened - closed_count;
        while (members && published < events / members + publishers * in_flight) {
            fan_sent[published % FAN_RING] = now_s();
            send_message(&conns[published % publishers]);
            published++;
        }
        turn(100);
    }
    report("fanout", now_s() - began, cpu_s() - cpu);
    for (double last = now_s(), before = -1; now_s() - last < 0.3;) { /* what is still in flight */
        if (before != events) last = now_s();
        before = events;
        turn(50);
    }
    mode_fanout = 0;
    memset(histogram, 0, sizeof histogram);
    replies = events = bytes = 0;
}

static void run_handshakes(double seconds) {
    double began = now_s(), cpu = cpu_s();
    dropping = 1;
    for (size_t i = 0; i < opening_max; i++) start(i);
    while (now_s() - began < seconds) turn(100);
    report("handshakes", now_s() - began, cpu_s() - cpu);
}

static void open_all(void) {
    double began = now_s(), cpu = cpu_s(), progress = began;
    size_t started = 0, before = 0;
    while (opened < conns_count) {
        while (started < conns_count && opening_now < opening_max) start(started++);
        turn(100);
        if (opened != before) progress = now_s(), before = opened;
        if (now_s() - progress > SETTLE_S) {
            fprintf(stderr, "%zu of %zu connections opened\n", opened, conns_count);
            exit(3);
        }
    }
    report("open", now_s() - began, cpu_s() - cpu);
}

static void read_lines(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file) die(name);
    first_lines = calloc(conns_count, sizeof *first_lines);
    for (size_t i = 0; i < conns_count; i++) {
        size_t room = 0;
        ssize_t size = getline(&first_lines[i], &room, file);
        if (size <= 0) die("too few lines");
        if (first_lines[i][size - 1] == '\n') first_lines[i][size - 1] = 0;
    }
    fclose(file);
}

static void set(const char *name, const char *value) {
    static const char *file;
    if (!strcmp(name, "connections")) conns_count = atol(value);
    else if (!strcmp(name, "opening")) opening_max = atol(value);
    else if (!strcmp(name, "source")) source = atol(value);
    else if (!strcmp(name, "sources")) sources = atol(value);
    else if (!strcmp(name, "path")) path = value;
    else if (!strcmp(name, "subprotocol")) subprotocol = value;
    else if (!strcmp(name, "second")) second = value;
    else if (!strcmp(name, "greeting")) greeting = value;
    else if (!strcmp(name, "event")) event_prefix = value;
    else if (!strcmp(name, "event_bytes")) event_bytes = atol(value);
    else if (!strcmp(name, "reply")) snprintf(reply_prefixes, sizeof reply_prefixes, "%s", value);
    else if (!strcmp(name, "first")) file = value;
    else if (!strcmp(name, "message")) {
        message_size = strlen(value);
        if (message_size >= MESSAGE_BYTES_MAX) die("message");
        memcpy(message, value, message_size + 1);
        counter = strstr(message, "000000000");
    } else if (!strcmp(name, "end")) {
        if (file) read_lines(file);
    } else {
        fprintf(stderr, "unknown option %s\n", name);
        exit(2);
    }
}

int main(int count, char **words) {
    if (count < 3) return 2;
    raise_open_files();
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
    if (!inet_aton(words[1], &server.sin_addr)) die("address");
    for (int i = 3; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (!equals) return 2;
        *equals = 0;
        set(words[i], equals + 1);
    }
    set("end", "");
    conns = calloc(conns_count + opening_max, sizeof *conns);
    epoll_fd = epoll_create1(0);
    open_all();
    set_nonblocking(0);
    char line[256];
    for (;;) {
        ssize_t got = read(0, line, sizeof line - 1);
        if (got == 0) return 0;
        if (got < 0) {
            turn(20); /* answers pings meanwhile */
            continue;
        }
        line[got] = 0;
        double a = 0, b = 0, c = 0;
        if (sscanf(line, "echo %lf %lf", &a, &b) == 2) run_echo(a, b);
        else if (sscanf(line, "fanout %lf %lf %lf", &a, &b, &c) == 3) run_fanout(a, b, c);
        else if (sscanf(line, "handshakes %lf", &a) == 1) run_handshakes(a);
        else return 0;
    }
}

/* The load generator: one thread, one epoll, many WebSocket connections.
 *
 * In:  load HOST PORT NAME=VALUE...
 *        connections=N   sockets to open                  path=/v1/socket    subprotocol=talkmeter.v1.json
 *        port2=N         a second server: the members of each pair of connections, 2p and 2p + 1, are on different ones
 *        first=FILE      line i is the first message of connection i; its reply must be no error
 *        greeting=TEXT   the first message of every connection, instead of a file
 *        second=TEXT     a second message of each, likewise
 *        message=TEXT    what is sent under load; the first run of nine zeros in it counts up
 *                        nine # in a TEXT become the number of the connection's pair
 *        opening=N       connections that are being opened at a time (64)
 *        reply=A|B       what replies begin with ({"re|{"id); anything else is an event, once the connection is open
 *        event=TEXT      what events begin with; other frames are ignored (all are events)
 *        event_bytes=N   events have N bytes, however they are packed into frames
 *        source=N        last number of the first source address, 127.0.0.N (1)
 *        drain=SECONDS   how long `pairs` waits in the end for what is still under way (10)
 *        sources=N       so many source addresses, since each has 28,000 ports (1)
 *      then commands, one a line, on standard input:
 *        echo SECONDS RATE         one message in flight for each connection, or RATE messages a second in all
 *        fanout SECONDS P N        P connections publish in turn, N messages in flight for each; all are due at all
 *        pairs SECONDS N RATE      2p sends, 2p + 1 has to hear it: N messages in flight for each pair, or, with N = 0,
 *                                  RATE messages a second in all, one at a time and evenly, whatever comes back
 *        handshakes SECONDS        open connections, greeting included, and drop them all the time, `opening` at once
 *        quit
 * Out: one JSON object a line: when all connections are open, and for each command. Of `pairs`: `events` and `bytes` are
 *      of what was heard within the time, all else of all messages, after waiting for the last: `lost` (neither heard nor
 *      refused), `doubled` (heard again, or by the wrong one), latencies from just before the send to just after
 *      the read, and `late_p99_us`, by how much the generator itself missed the moments to send.
 *
 * The limit server sends requests back, so {"id" begins a reply, too.
 */
#include "conns.h"

#include <poll.h>
#include <sys/timerfd.h>

#define FAN_RING 65536
#define FLIGHTS_MAX 131072 /* messages of `pairs` that are told apart at a time: 10 s of more than any server does */
#define HISTOGRAM_US 2000000
#define MARK 5         /* bytes in front of the counter in a message, by which it is found in the event */
#define NAP_NS 250000 /* far below the latencies that are looked at */

struct flight {
    double sent;
    uint64_t number;
    const struct conn *listener; /* NULL once it has been heard */
};

static uint64_t replies, events, bytes, published, lost, doubled, handshakes;
static uint32_t latencies[HISTOGRAM_US + 1], lateness[HISTOGRAM_US + 1];
static double fan_sent[FAN_RING];
static struct flight flights[FLIGHTS_MAX];
static enum { NOTHING, ECHO, FANOUT, PAIRS, VISITS } mode;
static int paced, timer_fd;
static double pace_began, pace_each_s, drain_s = 10;
static uint64_t pairs_before; /* messages up to this number belong to earlier commands */
static size_t pairs_window;

static void note(uint32_t *histogram, double seconds) {
    double us = seconds * 1e6;
    histogram[us < 0 ? 0 : us > HISTOGRAM_US ? HISTOGRAM_US : (uint32_t)us]++;
}

static double quantile(const uint32_t *histogram, double q) {
    uint64_t total = 0, seen = 0;
    for (size_t us = 0; us <= HISTOGRAM_US; us++) total += histogram[us];
    uint64_t wanted = total * q;
    for (size_t us = 0; us <= HISTOGRAM_US; us++) {
        seen += histogram[us];
        if (seen > wanted) return us;
    }
    return 0;
}

static void forget(void) {
    memset(latencies, 0, sizeof latencies);
    memset(lateness, 0, sizeof lateness);
    replies = events = bytes = handshakes = published = lost = doubled = 0;
}

static void report(const char *what, double seconds, double cpu) {
    printf("{\"what\":\"%s\",\"seconds\":%.6f,\"cpu_s\":%.6f,\"replies\":%llu,\"events\":%llu,\"published\":%llu,"
           "\"lost\":%llu,\"doubled\":%llu,\"handshakes\":%llu,\"bytes\":%llu,\"errors\":%llu,\"closed\":%zu,"
           "\"p50_us\":%.0f,\"p99_us\":%.0f,\"late_p99_us\":%.0f}\n",
           what, seconds, cpu, (unsigned long long)replies, (unsigned long long)events, (unsigned long long)published,
           (unsigned long long)lost, (unsigned long long)doubled, (unsigned long long)handshakes, (unsigned long long)bytes,
           (unsigned long long)errors, closed_count, quantile(latencies, 0.5), quantile(latencies, 0.99),
           quantile(lateness, 0.99));
    fflush(stdout);
    forget();
    errors = 0;
}

/* echo */

static void send_echo(struct conn *c, double now) {
    c->sent[c->sent_head++ % SENT_RING] = now;
    send_message(c);
}

static void on_reply(struct conn *c, size_t size, double now) {
    replies++;
    if (mode == PAIRS) return; /* what counts is what the other one hears */
    bytes += size;
    if (c->sent_tail != c->sent_head) note(latencies, now - c->sent[c->sent_tail++ % SENT_RING]);
    if (mode == ECHO && !paced) send_echo(c, now);
}

static void run_echo(double seconds, double rate) {
    double began = now_s(), cpu = cpu_s(), now = began;
    uint64_t sent = 0, skipped = 0;
    size_t next = 0;
    mode = ECHO;
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
    mode = NOTHING;
    report("echo", now_s() - began, cpu_s() - cpu);
    for (double end = now_s() + 2; now_s() < end;) { /* what is still in flight */
        size_t waiting = 0;
        for (size_t i = 0; i < conns_count; i++) waiting += conns[i].state == READY && conns[i].sent_head != conns[i].sent_tail;
        if (!waiting) break;
        turn(10);
    }
    forget();
}

/* fanout */

static void take_fan(struct conn *c, size_t size, double now) {
    uint64_t count = 1;
    bytes += size;
    c->event_bytes += size;
    if (event_bytes) count = c->event_bytes / event_bytes, c->event_bytes %= event_bytes;
    events += count;
    for (; count; count--, c->received++)
        if (mode == FANOUT) note(latencies, now - fan_sent[c->received % FAN_RING]);
}

static void run_fanout(double seconds, size_t publishers, size_t in_flight) {
    double began = now_s(), cpu = cpu_s();
    mode = FANOUT;
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
    mode = NOTHING;
    forget();
}

/* pairs */

static void send_pair(size_t pair) {
    struct conn *c = &conns[pair * 2];
    if (c->state != READY) return;
    flights[(counted + 1) % FLIGHTS_MAX] = (struct flight){now_s(), counted + 1, c + 1};
    send_message(c);
    published++;
}

/* Take an event: the number that its message was sent with follows the bytes that are in front of it in `message`. */
static void take_pair(struct conn *c, const unsigned char *p, size_t size, double now) {
    if (!(index_of(c) & 1)) return; /* the sender's own copy */
    const unsigned char *at = memmem(p, size, counter - MARK, MARK);
    if (!at || at + MARK + DIGITS > p + size) return; /* not a message, but news of who came */
    uint64_t n = 0;
    for (int i = 0; i < DIGITS; i++) n = n * 10 + (at[MARK + i] - '0');
    if (n <= pairs_before) return; /* counted as lost already */
    struct flight *flight = &flights[n % FLIGHTS_MAX];
    if (flight->number != n || flight->listener != c) {
        doubled++;
        return;
    }
    flight->listener = NULL;
    events++;
    bytes += size;
    note(latencies, now - flight->sent);
    if (pairs_window) send_pair(index_of(c) / 2);
}

static void on_event(struct conn *c, const unsigned char *p, size_t size, double now) {
    if (mode == PAIRS) take_pair(c, p, size, now);
    else take_fan(c, size, now);
}

/* Send what is due, which is one message unless the generator is late. */
static void on_timer(void) {
    uint64_t due;
    if (read(timer_fd, &due, sizeof due) != sizeof due) return;
    for (; due; due--) {
        note(lateness, now_s() - pace_began - (published + 1) * pace_each_s);
        send_pair(published % (conns_count / 2));
    }
}

/* Let the timer fall due once in so many nanoseconds; 0 stops it. */
static void set_pace(long each_ns) {
    struct timespec each = {each_ns / 1000000000, each_ns % 1000000000};
    pace_began = now_s();
    pace_each_s = each_ns / 1e9;
    if (timerfd_settime(timer_fd, 0, &(struct itimerspec){each, each}, NULL)) die("timer");
}

/* Sleep until something is due, and let what comes meanwhile wait: the generator shares its core with Valkey, and waking for
   each event takes more of it than sending and reading. Latencies come out longer, by NAP_NS at most. */
static void nap(void) {
    struct pollfd timer = {.fd = timer_fd, .events = POLLIN};
    ppoll(&timer, 1, &(struct timespec){0, NAP_NS}, NULL);
}

static void run_pairs(double seconds, size_t window, double rate) {
    if (!counter || counter - message < MARK || !conns_count || conns_count % 2) {
        fprintf(stderr, "pairs need a counter within the message, and two connections each\n");
        exit(2);
    }
    forget();
    double began = now_s(), cpu = cpu_s();
    uint64_t errors_before = errors;
    mode = PAIRS;
    pairs_before = counted;
    pairs_window = window;
    for (size_t i = 0; i < window * conns_count / 2; i++) send_pair(i % (conns_count / 2));
    if (!window) set_pace(1e9 / rate);
    while (now_s() - began < seconds) {
        if (!window) nap();
        turn(window ? 100 : 0);
    }
    set_pace(0);
    seconds = now_s() - began;
    cpu = cpu_s() - cpu;
    pairs_window = 0;
    uint64_t in_time = events, bytes_in_time = bytes;
    double end = now_s() + drain_s;
    while (events + errors - errors_before < published && now_s() < end) turn(10);
    lost = published - events - (errors - errors_before);
    events = in_time, bytes = bytes_in_time;
    mode = NOTHING;
    report("pairs", seconds, cpu);
}

/* handshakes */

static void on_visit(struct conn *c, double now) {
    if (mode == VISITS) note(latencies, now - c->sent[0]), handshakes++;
    struct linger hard = {1, 0}; /* no TIME_WAIT: ports would run out in seconds */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    drop(c);
    if (mode == VISITS) start(index_of(c));
}

static void run_handshakes(double seconds) {
    double began = now_s(), cpu = cpu_s();
    mode = VISITS;
    for (size_t i = 0; i < opening_max; i++)
        if (conns[conns_count + i].state == CLOSED) start(conns_count + i);
    while (now_s() - began < seconds) turn(100);
    mode = NOTHING;
    report("handshakes", now_s() - began, cpu_s() - cpu);
}

/* the command line */

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

static void set(const char *name, char *value) {
    static const char *file;
    if (!strcmp(name, "connections")) conns_count = atol(value);
    else if (!strcmp(name, "port2")) servers[1] = servers[0], servers[1].sin_port = htons(atoi(value));
    else if (!strcmp(name, "opening")) opening_max = atol(value);
    else if (!strcmp(name, "source")) source = atol(value);
    else if (!strcmp(name, "sources")) sources = atol(value);
    else if (!strcmp(name, "drain")) drain_s = atof(value);
    else if (!strcmp(name, "path")) path = value;
    else if (!strcmp(name, "subprotocol")) subprotocol = value;
    else if (!strcmp(name, "second")) second = value, second_pair = strstr(value, PAIR);
    else if (!strcmp(name, "greeting")) greeting = value, greeting_pair = strstr(value, PAIR);
    else if (!strcmp(name, "event")) event_prefix = value;
    else if (!strcmp(name, "event_bytes")) event_bytes = atol(value);
    else if (!strcmp(name, "reply")) snprintf(reply_prefixes, sizeof reply_prefixes, "%s", value);
    else if (!strcmp(name, "first")) file = value;
    else if (!strcmp(name, "message")) {
        message_size = strlen(value);
        if (message_size >= MESSAGE_BYTES_MAX) die("message");
        memcpy(message, value, message_size + 1);
        counter = strstr(message, COUNTER);
        message_pair = strstr(message, PAIR);
    } else if (!strcmp(name, "end")) {
        if (file) read_lines(file);
    } else {
        fprintf(stderr, "unknown option %s\n", name);
        exit(2);
    }
}

static void command(const char *line) {
    double a = 0, b = 0, c = 0;
    if (sscanf(line, "echo %lf %lf", &a, &b) == 2) run_echo(a, b);
    else if (sscanf(line, "fanout %lf %lf %lf", &a, &b, &c) == 3) run_fanout(a, b, c);
    else if (sscanf(line, "pairs %lf %lf %lf", &a, &b, &c) == 3) run_pairs(a, b, c);
    else if (sscanf(line, "handshakes %lf", &a) == 1) run_handshakes(a);
    else exit(0);
}

int main(int count, char **words) {
    if (count < 3) return 2;
    raise_open_files();
    servers[0] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
    if (!inet_aton(words[1], &servers[0].sin_addr)) die("address");
    for (int i = 3; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (!equals) return 2;
        *equals = 0;
        set(words[i], equals + 1);
    }
    set("end", "");
    conns = calloc(conns_count + opening_max, sizeof *conns);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e)) die("timer");
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
        command(line);
    }
}

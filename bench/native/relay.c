/* The least that a node can do which hears others through Valkey: an epoll WebSocket server, two sockets to Valkey.
 *
 * In:  relay PORT UNIX_SOCKET EVENT_BYTES
 * Out: "listening PORT" once it listens, then nothing; ends on SIGTERM.
 *
 * A message that holds "join" enters its connection into the channel that it names, and is answered when Valkey has
 * confirmed the subscription. One that holds "publish" is published there, padded with blanks to EVENT_BYTES,
 * acknowledged to its sender when Valkey has answered, and goes to the channel's members on each node as it comes
 * in on the subscription. One send for each socket and turn of the loop, Valkey's two included.
 *
 * What it does not do: sign-ins, rights, rates, schemas, a log (so no offsets, no history and no resume), dropping
 * repeats, a second codec, limits on slow readers, and surviving a Valkey that goes away.
 */
#include "server.h"

#include <sys/un.h>

#define ROOMS_HASH 4096
#define NAME_BYTES_MAX 64
#define WAITING_MAX 65536 /* publishes that Valkey has not answered */
#define CHANNEL "\"channel\":"
#define JOINED "{\"re\":0}"
#define PUBLISHED "{\"re\":0,\"ok\":{}}"

struct room {
    struct channel members;
    int subscribed;
    size_t size;
    char name[NAME_BYTES_MAX];
    struct room *next; /* of the same hash */
};

static struct room *rooms[ROOMS_HASH];
static struct conn *publisher, *subscriber;
static struct conn *waiting[WAITING_MAX]; /* senders in the order of Valkey's answers; NULL for one that is gone */
static uint32_t waiting_head, waiting_tail;
static size_t event_bytes;

static void send_text(struct conn *c, const void *data, size_t size) {
    static unsigned char out[INPUT_BYTES + 16];
    deliver(c, out, write_frame(out, 1, data, size, NULL));
}

/* Return the room of this name; a new one is subscribed to. */
static struct room *room_of(const unsigned char *name, size_t size) {
    uint32_t hash = 2166136261; /* FNV-1a */
    for (size_t i = 0; i < size; i++) hash = (hash ^ name[i]) * 16777619;
    struct room **place = &rooms[hash % ROOMS_HASH];
    for (; *place; place = &(*place)->next)
        if ((*place)->size == size && memcmp((*place)->name, name, size) == 0) return *place;
    struct room *room = *place = calloc(1, sizeof *room);
    if (size > NAME_BYTES_MAX) die("name");
    memcpy(room->name, name, size);
    room->size = size;
    char command[128];
    int length = snprintf(command, sizeof command, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%.*s\r\n", size, (int)size, name);
    deliver(subscriber, (unsigned char *)command, length);
    return room;
}

static void publish(struct conn *c, const struct room *room, const unsigned char *data, size_t size) {
    static unsigned char out[INPUT_BYTES * 2];
    size_t padded = size < event_bytes ? event_bytes : size;
    size_t at = sprintf((char *)out, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%.*s\r\n$%zu\r\n", room->size, (int)room->size, room->name, padded);
    memcpy(out + at, data, size);
    memset(out + at + size, ' ', padded - size);
    memcpy(out + at + padded, "\r\n", 2);
    deliver(publisher, out, at + padded + 2);
    if (waiting_head - waiting_tail == WAITING_MAX) die("too many publishes");
    waiting[waiting_head++ % WAITING_MAX] = c;
}

static void take(struct conn *c, const unsigned char *data, size_t size) {
    const unsigned char *name = memmem(data, size, CHANNEL, strlen(CHANNEL));
    name = name ? memchr(name + strlen(CHANNEL), '"', data + size - name - strlen(CHANNEL)) : NULL;
    const unsigned char *end = name ? memchr(name + 1, '"', data + size - name - 1) : NULL;
    if (!end) return;
    struct room *room = room_of(name + 1, end - name - 1);
    if (memmem(data, size < 80 ? size : 80, "publish", 7)) {
        publish(c, room, data, size);
    } else if (!c->channel && memmem(data, size < 80 ? size : 80, "join", 4)) {
        enter(&room->members, c);
        if (room->subscribed) send_text(c, JOINED, strlen(JOINED));
    }
}

static void on_drop(struct conn *c) {
    for (uint32_t i = waiting_tail; i != waiting_head; i++)
        if (waiting[i % WAITING_MAX] == c) waiting[i % WAITING_MAX] = NULL;
}

/* Read one RESP item, `$SIZE\r\nDATA\r\n` or `:NUMBER\r\n`. Returns where the next one begins, NULL when there is more to come. */
static const unsigned char *item(const unsigned char *p, const unsigned char *end, const unsigned char **data, size_t *size) {
    const unsigned char *line = p < end ? memchr(p, '\n', end - p) : NULL;
    if (!line) return NULL;
    if (*p != '$') {
        *data = p;
        *size = line + 1 - p;
        return line + 1;
    }
    *data = line + 1;
    *size = strtoul((const char *)p + 1, NULL, 10);
    return (size_t)(end - *data) >= *size + 2 ? *data + *size + 2 : NULL;
}

/* Valkey's answers to PUBLISH: each acknowledges the oldest that waits. */
static int receive_answers(struct conn *c) {
    ssize_t have = fill(c);
    if (have < 0) die("Valkey has gone");
    const unsigned char *at = input, *end = input + have, *data, *next;
    size_t size;
    for (; have && (next = item(at, end, &data, &size)); at = next) {
        if (*data != ':') die("Valkey refuses");
        struct conn *sender = waiting[waiting_tail++ % WAITING_MAX];
        if (sender) send_text(sender, PUBLISHED, strlen(PUBLISHED));
    }
    if (have) spare(c, at - input, have);
    return 1;
}

/* What comes in on the subscription: `*3`, then "message" or "subscribe", the channel, and the payload or a number. */
static int receive_pushes(struct conn *c) {
    ssize_t have = fill(c);
    if (have < 0) die("Valkey has gone");
    const unsigned char *at = input, *end = input + have, *kind, *name, *data, *next;
    size_t kind_size, name_size, size;
    while (have && (next = item(at, end, &kind, &kind_size)) && (next = item(next, end, &kind, &kind_size)) &&
           (next = item(next, end, &name, &name_size)) && (next = item(next, end, &data, &size))) {
        struct room *room = room_of(name, name_size);
        if (*kind == 's') room->subscribed = 1, data = (const unsigned char *)JOINED, size = strlen(JOINED);
        static unsigned char out[INPUT_BYTES + 16];
        size_t length = write_frame(out, 1, data, size, NULL);
        for (size_t i = 0; i < room->members.count; i++) deliver(room->members.members[i], out, length);
        at = next;
    }
    if (have) spare(c, at - input, have);
    return 1;
}

static struct conn *to_valkey(const char *path, int (*receive)(struct conn *c)) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) die(path);
    set_nonblocking(fd);
    return watch_new(fd, receive);
}

int main(int count, char **words) {
    if (count != 4) return 2;
    event_bytes = atol(words[3]);
    if (event_bytes > INPUT_BYTES) die("event");
    joining = 1;
    epoll_fd = epoll_create1(0);
    publisher = to_valkey(words[2], receive_answers);
    subscriber = to_valkey(words[2], receive_pushes);
    listen_on(atoi(words[1]));
    for (;;) turn();
}

/* What C can do on this machine: an epoll WebSocket server that knows nothing of the product.
 *
 * In:  limit PORT [join] [EVENT_BYTES]
 * Out: "listening PORT" once it listens, then nothing; ends on SIGTERM.
 *
 * A message that holds "publish" is acknowledged to its sender and goes, padded to EVENT_BYTES, to every connection that
 * has sent one holding "join"; any other message is sent back. Each message is one send; with `join` what is due to a
 * connection in one turn of the loop is one send.
 */
#include "server.h"

static struct channel everybody;
static unsigned char *event_frame;
static size_t event_size;

static void take(struct conn *c, const unsigned char *data, size_t size) {
    static unsigned char out[INPUT_BYTES + 16];
    deliver(c, out, write_frame(out, 1, data, size, NULL));
    if (!c->channel && memmem(data, size < 80 ? size : 80, "join", 4)) {
        enter(&everybody, c);
    } else if (memmem(data, size < 80 ? size : 80, "publish", 7)) {
        for (size_t i = 0; i < everybody.count; i++) deliver(everybody.members[i], event_frame, event_size);
    }
}

static void on_drop(struct conn *c) {
    (void)c; /* nothing here points to it */
}

int main(int count, char **words) {
    if (count < 2) return 2;
    size_t event_bytes = 200;
    for (int i = 2; i < count; i++) {
        if (strcmp(words[i], "join") == 0) joining = 1;
        else event_bytes = atol(words[i]);
    }
    char *event = malloc(event_bytes);
    memset(event, 'e', event_bytes);
    event_frame = malloc(event_bytes + 14);
    event_size = write_frame(event_frame, 1, event, event_bytes, NULL);
    epoll_fd = epoll_create1(0);
    listen_on(atoi(words[1]));
    for (;;) turn();
}

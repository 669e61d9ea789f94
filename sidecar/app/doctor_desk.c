// SPDX-License-Identifier: Apache-2.0
/* An examination that asks the network is shared by all who ask for one meanwhile; one that does
 * not is over within a turn of the loop and belongs to its asker. */
#include "app/doctor_desk.h"
#include "app/doctor_exam.h"
#include "base/mem.h"

#include <stdlib.h>

#define WAITING_MAX 4 /* of the admin socket's 16 connections */
#define BODY_MAX    (256u * 1024)

/* An examination and who waits for it. */
struct session {
    struct exam *exam; /* NULL: none is under way */
    struct admin_reply *waiting[WAITING_MAX];
    size_t n_waiting;
};

struct doctor_desk {
    const struct doctor_sources *sources;
    struct session online, offline;
};

static void reply_text(struct admin_reply **reply, int status, const char *text)
{
    struct buf b;
    buf_init(&b, BODY_MAX);
    CHECK(buf_append_str(&b, str_from(text)));
    admin_reply_send(reply, status, &b);
    buf_release(&b);
}

/* To everybody who waits; nobody does then. */
static void reply_all(struct session *s, int status, const char *text)
{
    for (size_t i = 0; i < s->n_waiting; i++)
        reply_text(&s->waiting[i], status, text);
    s->n_waiting = 0;
}

static void on_exam_done(void *arg)
{
    struct session *s = arg;
    struct buf b;
    buf_init(&b, BODY_MAX);
    bool ok = exam_write(s->exam, &b);
    exam_free(&s->exam);
    reply_all(s, ok ? 200 : 500, ok ? buf_cstr(&b) : "the result is too long\n");
    buf_release(&b);
}

static void on_asked(void *arg, struct str query, struct admin_reply *reply)
{
    struct doctor_desk *desk = arg;
    bool is_offline = str_eq(query, STR("offline"));
    struct session *s = is_offline ? &desk->offline : &desk->online;
    if (query.len > 0 && !is_offline) {
        reply_text(&reply, 400, "only ?offline is known here\n");
        return;
    }
    if (s->n_waiting == WAITING_MAX) {
        reply_text(&reply, 503, "too many ask at the same time\n");
        return;
    }
    s->waiting[s->n_waiting++] = reply;
    if (s->exam == NULL)
        s->exam = exam_start(desk->sources, is_offline, on_exam_done, s);
}

struct doctor_desk *doctor_desk_new(const struct doctor_sources *sources)
{
    struct doctor_desk *desk = xcalloc(1, sizeof *desk);
    desk->sources = sources;
    return desk;
}

void doctor_desk_free(struct doctor_desk **pdesk)
{
    struct doctor_desk *desk = *pdesk;
    *pdesk = NULL;
    if (desk == NULL)
        return;
    struct session *sessions[] = {&desk->online, &desk->offline};
    for (size_t i = 0; i < ARRAY_LEN(sessions); i++) {
        exam_free(&sessions[i]->exam);
        reply_all(sessions[i], 503, "svidmail is stopping\n");
    }
    free(desk);
}

struct admin_endpoint doctor_desk_endpoint(struct doctor_desk *desk)
{
    return (struct admin_endpoint){
        .path = "/doctor", .content_type = "application/json", .start = on_asked, .arg = desk};
}

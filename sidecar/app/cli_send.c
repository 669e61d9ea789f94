// SPDX-License-Identifier: Apache-2.0
/* send: a test mail through the sidecar, blocking, with each step shown, then the way the mail
 * took.
 *
 * Happy path: dial, greeting, EHLO, MAIL, RCPT..., DATA, verdict, QUIT, then /status for the path.
 * Failures: a refused step ends the dialogue with QUIT and exit 1; the path is a help, its absence
 * no failure. */
#include "app/admin_client.h"
#include "app/cli.h"
#include "app/cli_socket.h"
#include "app/screen.h"
#include "app/smtp_dialogue.h"
#include "base/mem.h"
#include "core/mail_address.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RECIPIENTS_MAX  100
#define MAIL_BYTES_MAX  (64 * 1024 * 1024)
#define SUBJECT_MAX     200
#define DEFAULT_ADDRESS "127.0.0.1:2525"
#define DEFAULT_SUBJECT "A test mail from svidmail"

struct send_options {
    struct cli_socket socket;
    const char *subject, *smtp, *file;
    struct mail_path from, to[RECIPIENTS_MAX];
    bool has_from; /* <> is one too */
    size_t n_to;
};

static const struct argp_child children[] = {{&cli_socket_argp, 0, NULL, 0}, {0}};

static const struct argp_option options[] = {
    {"to", 't', "ADDRESS", 0, "Recipient; may be repeated", 0},
    {"from", 'f', "ADDRESS", 0, "Sender", 0},
    {"subject", 'u', "TEXT", 0, "Subject of the mail that is made when there is no FILE", 0},
    {"smtp", 'S', "ADDRESS", 0,
     "Where svidmail listens: IP:PORT or unix:/PATH (default: what it says itself, "
     "else " DEFAULT_ADDRESS ")",
     0},
    {0},
};

/* An address with a line break in it would be a command of its own. */
static void take_address(const char *what, const char *arg, struct mail_path *out,
                         struct argp_state *state)
{
    struct str rest;
    struct err e = {0};
    if (!mail_path_parse(str_from(arg), out, &rest, &e))
        argp_error(state, "%s: %s", what, e.msg);
    if (rest.len > 0 || (out->len == 0 && strcmp(what, "--to") == 0))
        argp_error(state, "%s: one address, as user@example.org", what);
}

static void check_subject(const char *arg, struct argp_state *state)
{
    if (strlen(arg) > SUBJECT_MAX)
        argp_error(state, "--subject: at most %d bytes", SUBJECT_MAX);
    for (; *arg != '\0'; arg++)
        if (*arg < ' ' || *arg > '~')
            argp_error(state, "--subject: printable ASCII only");
}

static void add_recipient(struct send_options *o, const char *arg, struct argp_state *state)
{
    if (o->n_to == RECIPIENTS_MAX)
        argp_error(state, "--to: at most %d", RECIPIENTS_MAX);
    take_address("--to", arg, &o->to[o->n_to++], state);
}

static void check_all(const struct send_options *o, struct argp_state *state)
{
    if (o->n_to == 0 || !o->has_from)
        argp_error(state, "--to and --from are needed");
    if (o->file != NULL && o->subject != NULL)
        argp_error(state, "--subject is for the mail that is made without FILE");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct send_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->socket;
        return 0;
    case 't':
        add_recipient(o, arg, state);
        return 0;
    case 'f':
        take_address("--from", arg, &o->from, state);
        o->has_from = true;
        return 0;
    case 'u':
        check_subject(arg, state);
        o->subject = arg;
        return 0;
    case 'S':
        o->smtp = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (o->file != NULL)
            argp_error(state, "one FILE at a time");
        o->file = arg;
        return 0;
    case ARGP_KEY_END:
        check_all(o, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* --- the mail */

static bool read_mail(const char *file, struct buf *out, struct err *e)
{
    AUTO_CLOSE int fd =
        strcmp(file, "-") == 0 ? dup(STDIN_FILENO) : open(file, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return err_set(e, ERR_UNAVAIL, errno, "%s", file);
    for (;;) {
        char piece[65536];
        ssize_t n = read(fd, piece, sizeof piece);
        if (n == 0)
            return true;
        if (n == -1 && errno != EINTR)
            return err_set(e, ERR_IO, errno, "%s", file);
        if (n > 0 && !buf_append(out, piece, (size_t)n))
            return err_set(e, ERR_LIMIT, 0, "%s: over %d bytes", file, MAIL_BYTES_MAX);
    }
}

static bool make_mail(const struct send_options *o, struct buf *out)
{
    bool ok = buf_printf(out, "From: <%s>\r\nSubject: %s\r\n", o->from.text,
                         o->subject != NULL ? o->subject : DEFAULT_SUBJECT);
    for (size_t i = 0; i < o->n_to; i++)
        ok = ok && buf_printf(out, i == 0 ? "To: <%s>" : ",\r\n <%s>", o->to[i].text);
    return ok &&
           buf_append_str(
               out, STR("\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
                        "This mail was sent by `svidmail send'.  If you read it, the way from\r\n"
                        "the app over svidmail and the gateway to Amazon SES is open.\r\n"));
}

/* --- where to */

/* /status, or NULL if nobody answers; no harm then. */
static json_t *ask_status(const struct send_options *o)
{
    struct buf body;
    int status = 0;
    buf_init(&body, ADMIN_CLIENT_BODY_MAX);
    bool ok =
        admin_client_get(o->socket.path, "/status", ADMIN_CLIENT_TIMEOUT_MS, &status, &body, NULL);
    struct str s = buf_str(&body);
    json_t *json = ok && status == 200 ? json_loadb(s.p, s.len, 0, NULL) : NULL;
    buf_release(&body);
    return json;
}

static const char *find_address(const struct send_options *o, const json_t *status)
{
    const json_t *open = json_object_get(json_object_get(status, "smtp"), "listeners");
    const char *first = json_string_value(json_array_get(open, 0));
    return o->smtp != NULL ? o->smtp : first != NULL ? first : DEFAULT_ADDRESS;
}

/* --- the dialogue */

static bool say_address(struct smtp_dialogue *d, const char *verb, const struct mail_path *p,
                        struct err *e)
{
    char line[sizeof p->text + 40];
    snprintf(line, sizeof line, "%s:<%s>", verb, p->text);
    return smtp_dialogue_say(d, line, 250, e);
}

static bool send_mail(struct smtp_dialogue *d, const struct send_options *o, struct str mail,
                      struct err *e)
{
    if (!smtp_dialogue_greet(d, e) || !smtp_dialogue_say(d, "EHLO svidmail-send", 250, e) ||
        !say_address(d, "MAIL FROM", &o->from, e))
        return false;
    for (size_t i = 0; i < o->n_to; i++)
        if (!say_address(d, "RCPT TO", &o->to[i], e))
            return false;
    return smtp_dialogue_say(d, "DATA", 354, e) && smtp_dialogue_send_body(d, mail, e);
}

/* The mail's element of "last": the newest one that was answered by these words. */
static const json_t *find_result(const json_t *status, const char *reply)
{
    const json_t *last = json_object_get(status, "last");
    for (size_t i = 0; i < json_array_size(last); i++) {
        const char *text = json_string_value(json_object_get(json_array_get(last, i), "text"));
        if (text != NULL && text[0] != '\0' && strstr(reply, text) != NULL)
            return json_array_get(last, i);
    }
    return NULL;
}

static void show_path(const struct send_options *o, const char *reply)
{
    json_t *status = ask_status(o);
    const json_t *mail = find_result(status, reply);
    if (mail != NULL) {
        fputs("\nThe way it took:\n", stdout);
        screen_path(status, mail, stdout);
    } else {
        printf("\nThe way it took is not known: %s.\n",
               status == NULL ? "nobody answers on the admin socket"
                              : "the mail ended before it was handed on");
    }
    json_decref(status);
}

static int run(const struct send_options *o, struct str mail)
{
    struct smtp_dialogue d;
    struct err e = {0};
    json_t *status = ask_status(o);
    const char *address = find_address(o, status);
    printf("To svidmail on %s:\n", address);
    bool ok = smtp_dialogue_open(&d, address, &e) && send_mail(&d, o, mail, &e);
    json_decref(status);
    smtp_dialogue_close(&d);
    fflush(stdout);
    if (!ok)
        fprintf(stderr, "svidmail: not sent: %s\n", e.msg);
    if (d.has_sent_body)
        show_path(o, d.reply);
    return ok ? 0 : 1;
}

int cli_send(int argc, char **argv)
{
    static const struct argp parser = {
        options,
        parse_option,
        "[FILE]",
        "Send a test mail through the sidecar and show each step.  FILE holds a whole "
        "mail, headers first (- is standard input); without it a small one is made.",
        children,
        NULL,
        NULL};
    struct send_options o = {0};
    struct buf mail;
    struct err e = {0};
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (!cli_socket_resolve(&o.socket))
        return 2;
    buf_init(&mail, MAIL_BYTES_MAX);
    if (!(o.file != NULL ? read_mail(o.file, &mail, &e) : make_mail(&o, &mail))) {
        fprintf(stderr, "svidmail: %s\n", e.msg);
        buf_release(&mail);
        return 2;
    }
    int code = run(&o, buf_str(&mail));
    buf_release(&mail);
    return code;
}

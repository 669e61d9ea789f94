// SPDX-License-Identifier: Apache-2.0
/* config: svidmail.yaml as one struct, typed and checked; immutable after start.  Every key stands
 * once in config_schema.c; docs/svidmail.yaml.5 describes them.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_CONFIG_H
#define SVIDMAIL_APP_CONFIG_H
#include "aws/ses.h"
#include "base/err.h"
#include "base/str.h"
#include "core/listen_address.h"
#include "core/policy.h"
#include "core/spiffe_id.h"
#include "sys/log.h"

#define CONFIG_FILE_MAX_BYTES (1024 * 1024)
#define CONFIG_DEFAULT_FILE   "/etc/svidmail/svidmail.yaml"
#define CONFIG_DEFAULT_SOCKET "/run/svidmail/admin.sock"

enum config_auth { CONFIG_AUTH_NONE, CONFIG_AUTH_ACCEPT_ANY };
enum config_newline { CONFIG_NEWLINE_NORMALIZE, CONFIG_NEWLINE_REJECT };
enum config_tls { CONFIG_TLS_GATEWAY, CONFIG_TLS_END_TO_END };
enum config_route { CONFIG_ROUTE_SES_API, CONFIG_ROUTE_SMTP, CONFIG_ROUTE_SES_SMTP };
enum config_source { CONFIG_SOURCE_WEB_IDENTITY, CONFIG_SOURCE_ROLES_ANYWHERE };
enum config_reply { CONFIG_REPLY_VERDICT, CONFIG_REPLY_QUEUED };
enum config_recipients { CONFIG_RECIPIENTS_HASH, CONFIG_RECIPIENTS_FULL, CONFIG_RECIPIENTS_OFF };

/* Strings are never NULL ("" = not set); lists are NULL-terminated and never NULL. */
struct config_identity_choice {
    char *spiffe_id, *hint;
};

struct config {
    char *file; /* that it was loaded from; NULL: from no file */
    struct {
        char *endpoint; /* "": $SPIFFE_ENDPOINT_SOCKET */
        struct config_identity_choice mesh, aws;
    } identity;
    struct {
        char **listen;                    /* as written */
        struct listen_address *addresses; /* derived from listen */
        size_t n_addresses;
        uint64_t max_message_bytes, max_recipients, max_connections, idle_timeout_ms;
        enum config_auth auth;
        enum config_newline bare_newline;
        bool allow_any_address, allow_host_network;
    } smtp;
    struct {
        char *host;
        char **spiffe_ids;
        struct spiffe_id *ids; /* derived from spiffe_ids */
        size_t n_ids;
        uint64_t port_api, port_end_to_end, port_smtp;
        enum config_tls tls;
        uint64_t max_connections;
    } gateway;
    enum config_route route;
    struct {
        char *region, *configuration_set, *from_identity_arn, *tenant, *endpoint;
        struct ses_tag *tags;
        size_t n_tags;
        char **allow_headers;
        char *host; /* derived: endpoint, else email.<region>.<partition's domain> */
    } ses;
    struct {
        enum config_source source;
        char *role_arn, *session_name;
        uint64_t duration_ms;
        char *sts_region, *sts_endpoint, *ca_file, *audience;
        char *trust_anchor_arn, *profile_arn; /* roles_anywhere */
        char *sts_host; /* derived: sts_endpoint, else sts.<sts_region or ses.region>.<...> */
    } aws;
    struct {
        char *host, *credentials_file;
    } upstream;
    struct {
        enum config_reply reply;
        uint64_t patience_ms;
        char *spool_path;
        uint64_t spool_max_bytes, spool_reserve_percent;
        uint64_t max_age_ms, operator_grace_ms, rate_share;
    } delivery;
    struct {
        char **senders, **recipients_allow, **recipients_deny;
    } policy;
    struct {
        char *socket, *metrics_listen; /* "" = off */
    } admin;
    struct {
        enum log_level level;
        enum log_format format;
        enum config_recipients recipients;
    } log;
};

/* Read, parse and check file.  e->msg is the whole line for people: "FILE:LINE:COL: key: what, and
 * what is allowed"; without a position where there is none ("FILE: No such file or directory"). */
NODISCARD bool config_load(const char *file, struct config **out, struct err *e);
/* As config_load, of text that is at hand; name stands for the file in messages.  Pure. */
NODISCARD bool config_parse(const char *name, struct str text, struct config **out, struct err *e);
/* Nulls *c; NULL is fine. */
void config_free(struct config **c);

#endif

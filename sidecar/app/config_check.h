// SPDX-License-Identifier: Apache-2.0
/* config_check: is one configuration value well formed?  Pure; each fills e with what is wrong and
 * what is allowed.  Layer: app. */
#ifndef SVIDMAIL_APP_CONFIG_CHECK_H
#define SVIDMAIL_APP_CONFIG_CHECK_H
#include "base/err.h"
#include "base/str.h"

NODISCARD bool check_endpoint(struct str v, struct err *e);       /* Workload API */
NODISCARD bool check_spiffe_id(struct str v, struct err *e);      /* a workload's */
NODISCARD bool check_listen(struct str v, struct err *e);         /* smtp.listen */
NODISCARD bool check_metrics_listen(struct str v, struct err *e); /* TCP only */
NODISCARD bool check_host(struct str v, struct err *e);           /* IP address, name, name. */
NODISCARD bool check_dns_name(struct str v, struct err *e); /* for SNI and Host: no final dot */
NODISCARD bool check_region(struct str v, struct err *e);
NODISCARD bool check_role_arn(struct str v, struct err *e);
NODISCARD bool check_ses_arn(struct str v, struct err *e);
NODISCARD bool check_session_name(struct str v, struct err *e);
NODISCARD bool check_ses_name(struct str v, struct err *e); /* configuration set, tenant */
NODISCARD bool check_tag(struct str v, struct err *e);      /* name or value */
NODISCARD bool check_ses_header(struct str v, struct err *e);
NODISCARD bool check_absolute(struct str v, struct err *e); /* path */
NODISCARD bool check_visible(struct str v, struct err *e);  /* printable ASCII without spaces */

#endif

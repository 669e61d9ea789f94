// SPDX-License-Identifier: Apache-2.0
#include "aws/partition.h"

// clang-format off
static const struct partition partitions[] = {
    {"cn-",      "aws-cn",     "amazonaws.com.cn"},
    {"us-gov-",  "aws-us-gov", "amazonaws.com"},
    {"eusc-",    "aws-eusc",   "amazonaws.eu"},
    {"us-iso-",  "aws-iso",    "c2s.ic.gov"},
    {"us-isob-", "aws-iso-b",  "sc2s.sgov.gov"},
    {"eu-isoe-", "aws-iso-e",  "cloud.adc-e.uk"},
    {"us-isof-", "aws-iso-f",  "csp.hci.ic.gov"},
    {"",         "aws",        "amazonaws.com"}, /* fits all: the last */
};
// clang-format on

const struct partition *partition_of_region(struct str region)
{
    const struct partition *p = partitions;
    while (!str_starts_with(region, str_from(p->region_prefix)))
        p++;
    return p;
}

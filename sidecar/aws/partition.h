// SPDX-License-Identifier: Apache-2.0
/* partition: which of AWS's clouds a region lies in.  They share neither credentials nor roles, and
 * some have a DNS domain of their own.  Source: AWS SDK, botocore's partitions.json.  Layer: aws.
 */
#ifndef SVIDMAIL_AWS_PARTITION_H
#define SVIDMAIL_AWS_PARTITION_H
#include "base/str.h"

struct partition {
    const char *region_prefix; /* "cn-" */
    const char *name;          /* as in ARNs: "aws-cn" */
    const char *domain;        /* of the services' hosts: "amazonaws.com.cn" */
};

/* Never NULL: what no other partition claims is in "aws". */
const struct partition *partition_of_region(struct str region);

#endif

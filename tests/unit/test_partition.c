// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "aws/partition.h"
#include "base/mem.h"

TEST(partition, each_region_has_its_name_in_arns_and_its_domain)
{
    static const struct {
        const char *region, *name, *domain;
    } cases[] = {
        {"eu-central-1", "aws", "amazonaws.com"},
        {"us-east-1", "aws", "amazonaws.com"},
        {"me-central-1", "aws", "amazonaws.com"},
        {"cn-northwest-1", "aws-cn", "amazonaws.com.cn"},
        {"us-gov-east-1", "aws-us-gov", "amazonaws.com"},
        {"eusc-de-east-1", "aws-eusc", "amazonaws.eu"},
        {"us-iso-west-1", "aws-iso", "c2s.ic.gov"},
        {"us-isob-east-1", "aws-iso-b", "sc2s.sgov.gov"},
        {"eu-isoe-west-1", "aws-iso-e", "cloud.adc-e.uk"},
        {"us-isof-south-1", "aws-iso-f", "csp.hci.ic.gov"},
        {"xx-nowhere-1", "aws", "amazonaws.com"},
        {"", "aws", "amazonaws.com"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct partition *p = partition_of_region(str_from(cases[i].region));
        assert_string_equal(p->name, cases[i].name);
        assert_string_equal(p->domain, cases[i].domain);
    }
}

{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Fails with the key and the cure.  What is said here is what svidmail check-config would say, before anything is
     installed; a test holds the two together.  Argument: list PREFIX VALUES, PREFIX being what stands before the keys in
     the values file ("svidmail." in an app's chart). */}}
{{- define "svidmail.check" -}}
{{- $at := index . 0 -}}
{{- $values := index . 1 -}}
{{- if not $values.spiffe.socket -}}
  {{- fail (printf "%sspiffe.socket: is missing: the socket's file name in the CSI volume, as spire-agent.sock" $at) -}}
{{- end -}}
{{- if $values.config -}}
  {{- include "svidmail.checkKeys" (list $at "" $values.config (include "svidmail.configKeys" . | fromJson)) -}}
  {{- include "svidmail.checkRequired" (list $at $values.config) -}}
  {{- include "svidmail.checkListeners" (list $at $values.config) -}}
  {{- include "svidmail.checkPaths" (list $at $values.config) -}}
  {{- include "svidmail.checkPartitions" (list $at $values.config) -}}
{{- end -}}
{{- include "svidmail.checkSpool" . -}}
{{- end -}}

{{/* Argument: list PREFIX IMAGE. */}}
{{- define "svidmail.checkImage" -}}
{{- $image := index . 1 -}}
{{- if not $image.registry -}}
  {{- fail (printf "%simage.registry: is missing: there is no public image of svidmail; push the one you built to your registry and name it here (localhost for one that is already on the nodes)" (index . 0)) -}}
{{- end -}}
{{- if and $image.digest (not (regexMatch "^sha256:[0-9a-f]{64}$" $image.digest)) -}}
  {{- fail (printf "%simage.digest: %q is none; allowed: sha256: and 64 hexadecimal digits" (index . 0) $image.digest) -}}
{{- end -}}
{{- end -}}

{{/* Every key is known and holds what it may.  Argument: list PREFIX PATH MAPPING KEYS. */}}
{{- define "svidmail.checkKeys" -}}
{{- $at := index . 0 -}}
{{- $path := index . 1 -}}
{{- $keys := index . 3 -}}
{{- range $name, $value := index . 2 -}}
  {{- $here := ternary $name (printf "%s.%s" $path $name) (eq $path "") -}}
  {{- $below := list -}}
  {{- range $key, $_ := $keys -}}
    {{- if hasPrefix (printf "%s." $here) $key -}}
      {{- $below = append $below $key -}}
    {{- end -}}
  {{- end -}}
  {{- if hasKey $keys $here -}}
    {{- include "svidmail.checkValue" (list (printf "%sconfig.%s" $at $here) $value (get $keys $here)) -}}
  {{- else if not $below -}}
    {{- $known := list -}}
    {{- range $key, $_ := $keys -}}
      {{- if or (eq $path "") (hasPrefix (printf "%s." $path) $key) -}}
        {{- $known = append $known (trimPrefix (printf "%s." $path) $key | splitList "." | first) -}}
      {{- end -}}
    {{- end -}}
    {{- fail (printf "%sconfig.%s: is no key of svidmail.yaml; known here: %s" $at $here (join ", " ($known | uniq | sortAlpha))) -}}
  {{- else if kindIs "map" $value -}}
    {{- include "svidmail.checkKeys" (list $at $here $value $keys) -}}
  {{- else -}}
    {{- fail (printf "%sconfig.%s: not a mapping; known below it: %s" $at $here (join ", " ($below | sortAlpha))) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Argument: list NAME VALUE KEY. */}}
{{- define "svidmail.checkValue" -}}
{{- $name := index . 0 -}}
{{- $value := index . 1 -}}
{{- $key := index . 2 -}}
{{- $ok := true -}}
{{- if eq $key.type "list" -}}
  {{- $ok = and (kindIs "slice" $value) (ge (len ($value | default list)) (int $key.min)) (le (len ($value | default list)) (int $key.max)) -}}
  {{- if $ok -}}
    {{- range $item := $value -}}
      {{- include "svidmail.checkString" (list $name $item $key 1 998) -}}
    {{- end -}}
  {{- end -}}
{{- else if eq $key.type "tags" -}}
  {{- $ok = and (kindIs "map" $value) (le (len ($value | default dict)) (int $key.max)) -}}
  {{- if $ok -}}
    {{- range $tag, $text := $value -}}
      {{- include "svidmail.checkString" (list $name $tag $key 1 256) -}}
      {{- include "svidmail.checkString" (list $name $text $key 1 256) -}}
    {{- end -}}
  {{- end -}}
{{- else if eq $key.type "string" -}}
  {{- include "svidmail.checkString" (list $name $value $key (int $key.min) (int $key.max)) -}}
{{- else if eq $key.type "bool" -}}
  {{- $ok = kindIs "bool" $value -}}
{{- else if eq $key.type "word" -}}
  {{- $ok = or (has $value $key.words) (and (has "off" $key.words) (kindIs "bool" $value) (not $value)) -}}
{{- else -}}
  {{- $ok = and (or (ne $key.type "number") (not (kindIs "string" $value))) (ne (include "svidmail.quantityFits" (list $key $value)) "") -}}
{{- end -}}
{{- if not $ok -}}
  {{- fail (printf "%s: %s is not allowed; allowed: %s" $name (toJson $value) $key.allowed) -}}
{{- end -}}
{{- if and $key.later (ne (toString $value) $key.preset) -}}
  {{- fail (printf "%s: not in this version: %s; leave it out" $name $key.later) -}}
{{- end -}}
{{- end -}}

{{/* Argument: list NAME STRING KEY MIN MAX. */}}
{{- define "svidmail.checkString" -}}
{{- $name := index . 0 -}}
{{- $value := index . 1 -}}
{{- $key := index . 2 -}}
{{- if not (kindIs "string" $value) -}}
  {{- fail (printf "%s: %s is no string; put it in quotes; allowed: %s" $name (toJson $value) $key.allowed) -}}
{{- end -}}
{{- if or (lt (len $value) (index . 3)) (gt (len $value) (index . 4)) -}}
  {{- fail (printf "%s: %q is too short or too long; allowed: %s" $name $value $key.allowed) -}}
{{- end -}}
{{- if and $value (not (regexMatch ($key.pattern | default "^[^\\x00-\\x1f\\x7f]*$") $value)) -}}
  {{- fail (printf "%s: %q is not allowed; allowed: %s" $name $value ($key.form | default "printable text")) -}}
{{- end -}}
{{- end -}}

{{/* "yes", or nothing.  Argument: list KEY VALUE, KEY being of type number, percent, size or duration. */}}
{{- define "svidmail.quantityFits" -}}
{{- $key := index . 0 -}}
{{- $units := get (dict "number" (dict "" 1) "percent" (dict "%" 1)
    "size" (dict "" 1 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824)
    "duration" (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000)) $key.type -}}
{{- $text := index . 1 | toString -}}
{{- if kindIs "float64" (index . 1) -}}
  {{- $text = index . 1 | toJson -}}
{{- end -}}
{{- if and (eq $key.type "duration") (eq $text "0") -}}
  {{- $text = "0s" -}}
{{- end -}}
{{- if regexMatch "^[0-9]{1,12}[A-Za-z%]*$" $text -}}
  {{- $digits := regexFind "^[0-9]+" $text -}}
  {{- $unit := trimPrefix $digits $text -}}
  {{- if hasKey $units $unit -}}
    {{- $amount := mul (trimAll " " $digits | regexFind "[1-9][0-9]*$" | default "0" | int64) (get $units $unit) -}}
    {{- if and (ge $amount (int64 $key.min)) (le $amount (int64 $key.max)) -}}
yes
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Argument: list PREFIX CONFIG. */}}
{{- define "svidmail.checkRequired" -}}
{{- $at := index . 0 -}}
{{- $config := index . 1 -}}
{{- $from := "`helm get notes mail-egress --namespace mail-egress` prints the block" -}}
{{- if not ($config.gateway).host -}}
  {{- fail (printf "%sconfig.gateway.host: is missing: the egress gateway's name; %s" $at $from) -}}
{{- end -}}
{{- if not ($config.gateway).spiffe_ids -}}
  {{- fail (printf "%sconfig.gateway.spiffe_ids: is missing: who the gateway must be, as [spiffe://example.org/ns/mail-egress/sa/mail-egress]; %s" $at $from) -}}
{{- end -}}
{{- if not ($config.ses).region -}}
  {{- fail (printf "%sconfig.ses.region: is missing: the AWS region of the SES identity, as eu-central-1" $at) -}}
{{- end -}}
{{- if not ($config.aws).role_arn -}}
  {{- fail (printf "%sconfig.aws.role_arn: is missing: the IAM role to assume, as arn:aws:iam::ACCOUNT:role/NAME" $at) -}}
{{- end -}}
{{- end -}}

{{/* Argument: list PREFIX CONFIG. */}}
{{- define "svidmail.checkListeners" -}}
{{- $smtp := (index . 1).smtp | default dict -}}
{{- range $smtp.listen -}}
  {{- if not (or $smtp.allow_any_address (regexMatch "^(unix:|127\\.|\\[(0*:)*:?0*1\\]:)" .)) -}}
    {{- fail (printf "%sconfig.smtp.listen: %q can be reached from outside of the pod, and there is no password; allowed: 127.0.0.1:PORT, [::1]:PORT, unix:/PATH, or smtp.allow_any_address: true" (index $ 0) .) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* AWS's partitions know nothing of each other: no role, token or identity of one counts in another.
     Argument: list PREFIX CONFIG. */}}
{{- define "svidmail.checkPartitions" -}}
{{- $at := index . 0 -}}
{{- $ses := (index . 1).ses -}}
{{- $aws := (index . 1).aws -}}
{{- $home := include "svidmail.partition" $ses.region -}}
{{- $others := dict "ses.from_identity_arn" $ses.from_identity_arn "aws.role_arn" $aws.role_arn -}}
{{- range $key, $arn := $others -}}
  {{- if $arn -}}
    {{- $_ := set $others $key (splitList ":" $arn | rest | first) -}}
  {{- end -}}
{{- end -}}
{{- if $aws.sts_region -}}
  {{- $_ := set $others "aws.sts_region" (include "svidmail.partition" $aws.sts_region) -}}
{{- end -}}
{{- range $key, $partition := $others -}}
  {{- if and $partition (ne $partition $home) (has $partition (list "aws" "aws-cn" "aws-us-gov" "aws-eusc" "aws-iso" "aws-iso-b" "aws-iso-e" "aws-iso-f")) -}}
    {{- fail (printf "%sconfig.%s: of AWS's partition %s, and ses.region %s is in %s: neither knows the other; correct whichever is wrong" $at $key $partition $ses.region $home) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* AWS's partition of a region. */}}
{{- define "svidmail.partition" -}}
{{- $begin := splitList "-" . -}}
{{- if eq (first $begin) "cn" -}}
aws-cn
{{- else if eq (first $begin) "eusc" -}}
aws-eusc
{{- else if hasPrefix "us-gov-" . -}}
aws-us-gov
{{- else if hasPrefix "iso" (index $begin 1) -}}
{{- index $begin 1 | replace "iso" "aws-iso-" | trimSuffix "-" -}}
{{- else -}}
aws
{{- end -}}
{{- end -}}

{{/* The region that a host's name or an ARN has in it, or nothing.  Argument: list SEPARATOR TEXT. */}}
{{- define "svidmail.regionIn" -}}
{{- range splitList (index . 0) (index . 1) -}}
  {{- if regexMatch "^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$" . -}}{{ . }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the probes of the sidecar count on.  Argument: list PREFIX CONFIG. */}}
{{- define "svidmail.checkPaths" -}}
{{- $config := index . 1 -}}
{{- $admin := $config.admin | default dict -}}
{{- if and (hasKey $admin "socket") (ne $admin.socket "/run/svidmail/admin.sock") -}}
  {{- fail (printf "%sconfig.admin.socket: %q is not where the sidecar's probes ask; leave it out: it is /run/svidmail/admin.sock" (index . 0) $admin.socket) -}}
{{- end -}}
{{- end -}}

{{/* Argument: list PREFIX VALUES. */}}
{{- define "svidmail.checkSpool" -}}
{{- $at := index . 0 -}}
{{- $values := index . 1 -}}
{{- $room := include "svidmail.bytes" $values.spool.sizeLimit | int64 -}}
{{- if le $room 0 -}}
  {{- fail (printf "%sspool.sizeLimit: %q is no size; allowed: a quantity of Kubernetes, as 1200Mi or 2Gi" $at ($values.spool.sizeLimit | toString)) -}}
{{- end -}}
{{- $spool := (($values.config).delivery).spool | default dict -}}
{{- $smtp := ($values.config).smtp | default dict -}}
{{- if ne (hasKey $spool "path" | ternary $spool.path "default") "" -}}
  {{- $wanted := $spool.max_bytes | default "1GiB" -}}
  {{- if lt $room (include "svidmail.bytes" $wanted | int64) -}}
    {{- fail (printf "%sspool.sizeLimit: %v is less than config.delivery.spool.max_bytes (%v), and the kubelet evicts a pod whose volume grows over its limit; raise spool.sizeLimit" $at $values.spool.sizeLimit $wanted) -}}
  {{- end -}}
{{- end -}}
{{- $largest := $smtp.max_message_bytes | default 29000000 -}}
{{- if lt $room (include "svidmail.bytes" $largest | int64) -}}
  {{- fail (printf "%sspool.sizeLimit: %v has no room for one mail of config.smtp.max_message_bytes (%v); raise spool.sizeLimit" $at $values.spool.sizeLimit (toJson $largest)) -}}
{{- end -}}
{{- end -}}

{{/* Bytes of a quantity of Kubernetes (1200Mi) or a size of svidmail.yaml (1GiB); 0 if it is neither. */}}
{{- define "svidmail.bytes" -}}
{{- $text := kindIs "string" . | ternary . (toJson .) -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 -}}
{{- $digits := regexFind "^[0-9]{1,12}" $text -}}
{{- $unit := trimPrefix $digits $text -}}
{{- if and $digits (hasKey $units $unit) -}}
  {{- mul (int64 $digits) (get $units $unit) -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{/* Lines about what works and should be known.  Argument: list PREFIX VALUES.  Without a PREFIX the chart svidmail stands
     by itself, and only the injection policy's mounts count. */}}
{{- define "svidmail.warnings" -}}
{{- $at := index . 0 -}}
{{- $values := index . 1 -}}
{{- $smtp := $values.config.smtp | default dict -}}
{{- $aws := $values.config.aws | default dict -}}
{{- $region := ($values.config.ses).region -}}
{{- if and $aws.sts_region (ne $aws.sts_region $region) }}
{{ printf "%sconfig.aws.sts_region is %s and ses.region is %s: the gateway must let through both (regions of mail-egress)" $at $aws.sts_region $region }}
{{- end }}
{{- $ses := $values.config.ses | default dict -}}
{{- $named := dict -}}
{{- $_ := set $named "ses.endpoint" (list "ses.region" $region (include "svidmail.regionIn" (list "." ($ses.endpoint | default "")))) -}}
{{- $_ := set $named "ses.from_identity_arn" (list "ses.region" $region (include "svidmail.regionIn" (list ":" ($ses.from_identity_arn | default "")))) -}}
{{- $sts := empty $aws.sts_region | ternary "ses.region" "aws.sts_region" -}}
{{- $_ := set $named "aws.sts_endpoint" (list $sts ($aws.sts_region | default $region) (include "svidmail.regionIn" (list "." ($aws.sts_endpoint | default "")))) -}}
{{- range $key, $one := $named -}}
  {{- if and (index $one 2) (ne (index $one 1) (index $one 2)) }}
{{ printf "%sconfig.%s is of %s and %s is %s: a signature and an identity count in their own region only" $at $key (index $one 2) (index $one 0) (index $one 1) }}
  {{- end }}
{{- end }}
{{- if $smtp.allow_any_address }}
{{ printf "%sconfig.smtp.allow_any_address: whoever reaches one of %s sends mail as this app" $at (join ", " $smtp.listen) }}
{{- end }}
{{- if $smtp.allow_host_network }}
{{ printf "%sconfig.smtp.allow_host_network: on the node's own network every process of the node sends mail as this app" $at }}
{{- end }}
{{- range $smtp.listen }}
  {{- if and (regexMatch ":[0-9]+$" .) (lt (regexFind "[0-9]+$" . | int) 1024) }}
{{ printf "%sconfig.smtp.listen %s: a port below 1024 needs the pod's sysctl net.ipv4.ip_unprivileged_port_start=0" $at . }}
  {{- end }}
{{- end }}
{{- if and $aws.ca_file (not (hasPrefix "/etc/ssl/" $aws.ca_file)) }}
  {{- $mounted := false }}
  {{- range $values.extraVolumeMounts }}
    {{- if hasPrefix .mountPath $aws.ca_file }}
      {{- $mounted = true }}
    {{- end }}
  {{- end }}
  {{- if not $at }}
{{ printf "config.aws.ca_file is %s: labelled pods have it only if mail-egress's injection.extraVolumeMounts bring it" $aws.ca_file }}
  {{- else if not $mounted }}
{{ printf "%sconfig.aws.ca_file is %s, and no extraVolumeMounts brings it" $at $aws.ca_file }}
  {{- end }}
{{- end }}
{{- end -}}

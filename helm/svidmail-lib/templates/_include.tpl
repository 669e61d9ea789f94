{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* For the app's chart.  "svidmail.inject" does everything in one line; the others are its parts, for those who would
     rather see where each goes.  Argument of the parts: the chart's root, . */}}

{{/* An item for initContainers; it belongs first. */}}
{{- define "svidmail.container" -}}
{{- $values := include "svidmail.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- include "svidmail.checkImage" (list "svidmail." $values.image) -}}
- {{ include "svidmail.sidecar.container" $values | indent 2 | trim }}
{{- end -}}
{{- end -}}

{{/* Items for volumes. */}}
{{- define "svidmail.volumes" -}}
{{- $values := include "svidmail.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- include "svidmail.sidecar.volumes" $values -}}
{{- end -}}
{{- end -}}

{{/* Entries for the pod template's annotations.  list . MAP: merged with the annotations the pod already has. */}}
{{- define "svidmail.annotations" -}}
{{- $root := . -}}
{{- $annotations := dict -}}
{{- if kindIs "slice" . -}}
  {{- $root = index . 0 -}}
  {{- $annotations = index . 1 | default dict -}}
{{- end -}}
{{- $values := include "svidmail.values" $root | fromYaml -}}
{{- if $values.enabled -}}
  {{- include "svidmail.mergedAnnotations" (list $values $annotations) -}}
{{- else if $annotations -}}
  {{- toYaml $annotations -}}
{{- end -}}
{{- end -}}

{{/* Entries for the pod template's labels: what policies and kubectl svidmail find the pods by. */}}
{{- define "svidmail.labels" -}}
{{- if (include "svidmail.values" . | fromYaml).enabled -}}
svidmail.io/inject: "true"
{{- end -}}
{{- end -}}

{{/* For the app's NOTES.txt: what works and should be known.  helm shows the notes of the chart it installs only.
     Argument: . or list . NAME…, NAME being a template as for svidmail.inject, which is then looked at as well. */}}
{{- define "svidmail.notes" -}}
{{- $root := . -}}
{{- $templates := list -}}
{{- if kindIs "slice" . -}}
  {{- $root = first . -}}
  {{- $templates = rest . -}}
{{- end -}}
{{- $values := include "svidmail.values" $root | fromYaml -}}
{{- if $values.enabled -}}
  {{- range $name := $templates -}}
    {{- $pod := include "svidmail.podOf" (include $name $root | fromYaml) | fromYaml -}}
    {{- if ($pod.spec).shareProcessNamespace }}
WARNING: template {{ $name | quote }} has shareProcessNamespace: true, so the pod's other containers can signal the sidecar and, as the same user, read its files; leave it out
    {{- end }}
  {{- end -}}
  {{- range include "svidmail.warnings" (list "svidmail." $values) | trim | splitList "\n" | compact }}
WARNING: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The pod template of a workload; a pod template is its own.  Argument: the object. */}}
{{- define "svidmail.podOf" -}}
{{- $pod := . -}}
{{- $kind := .kind | default "Pod" -}}
{{- if eq $kind "CronJob" -}}
  {{- $pod = ((((.spec).jobTemplate).spec).template) -}}
{{- else if ne $kind "Pod" -}}
  {{- $pod = ((.spec).template) -}}
{{- end -}}
{{- $pod | default dict | toYaml -}}
{{- end -}}

{{/* Argument: list VALUES ANNOTATIONS. */}}
{{- define "svidmail.mergedAnnotations" -}}
{{- $values := index . 0 -}}
{{- $annotations := deepCopy (index . 1) -}}
{{- $mesh := include "svidmail.sidecar.meshPorts" $values | fromYaml -}}
{{- range $key, $ports := include "svidmail.sidecar.excludedPorts" $values | fromYaml -}}
  {{- $theirs := list -}}
  {{- range $port := hasKey $annotations $key | ternary (get $annotations $key | toString) (get $mesh $key) | splitList "," -}}
    {{- $theirs = append $theirs (trim $port) -}}
  {{- end -}}
  {{- $theirs = without $theirs "" -}}
  {{- $ours := list -}}
  {{- range $port := $ports -}}
    {{- if not (has $port $theirs) -}}
      {{- $ours = append $ours $port -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $annotations $key (concat $theirs $ours | join ",") -}}
{{- end -}}
{{- if ne $values.configMap.name "svidmail" -}}
  {{- $_ := set $annotations "svidmail.io/config" $values.configMap.name -}}
{{- end -}}
{{- if $values.config -}}
  {{- $_ := set $annotations "checksum/svidmail-config" (include "svidmail.configText" $values | sha256sum) -}}
{{- end -}}
{{- if (($values.config).smtp).allow_host_network -}}
  {{- $_ := set $annotations "svidmail.io/allow-host-network" "true" -}}
{{- end -}}
{{- toYaml $annotations -}}
{{- end -}}

{{/* A workload or a pod template, given back with the sidecar in it.
     Argument: list . NAME, NAME being the template that yields the app's Deployment, StatefulSet, DaemonSet, Job, CronJob
     or Pod, or only the pod template of one; a map is taken as well. */}}
{{- define "svidmail.inject" -}}
{{- $root := index . 0 -}}
{{- $object := index . 1 -}}
{{- $what := "the map it was given" -}}
{{- if kindIs "string" $object -}}
  {{- $what = printf "template %q" $object -}}
  {{- $text := include $object $root -}}
  {{- if gt (len (regexFindAll "(?m)^---" (trim $text | trimPrefix "---") -1)) 0 -}}
    {{- fail (printf "svidmail.inject: %s holds several objects; give each a template of its own" $what) -}}
  {{- end -}}
  {{- $object = fromYaml $text -}}
  {{- if $object.Error -}}
    {{- fail (printf "svidmail.inject: %s yields no YAML mapping: %s" $what $object.Error) -}}
  {{- end -}}
{{- else -}}
  {{- $object = deepCopy $object -}}
{{- end -}}
{{- $values := include "svidmail.values" $root | fromYaml -}}
{{- if and $values.enabled $object -}}
  {{- include "svidmail.checkImage" (list "svidmail." $values.image) -}}
  {{- $pod := $object -}}
  {{- if eq ($object.kind | default "Pod") "Pod" -}}
  {{- else if eq $object.kind "CronJob" -}}
    {{- $pod = (((($object.spec).jobTemplate).spec).template) -}}
  {{- else -}}
    {{- $pod = (($object.spec).template) -}}
  {{- end -}}
  {{- if not (($pod).spec).containers -}}
    {{- fail (printf "svidmail.inject: %s (kind %s) has no containers in spec, spec.template.spec or spec.jobTemplate.spec.template.spec: it takes a workload or a pod template" $what ($object.kind | default "none")) -}}
  {{- end -}}
  {{- include "svidmail.injectPod" (list $values $pod $object $what) -}}
{{- end -}}
{{- if $object -}}
{{- toYaml $object -}}
{{- end -}}
{{- end -}}

{{/* Changes POD in place.  Argument: list VALUES POD OBJECT WHAT; OBJECT is what POD is the template of. */}}
{{- define "svidmail.injectPod" -}}
{{- $values := index . 0 -}}
{{- $pod := index . 1 -}}
{{- $spec := $pod.spec -}}
{{- if and $spec.hostNetwork (not (($values.config).smtp).allow_host_network) -}}
  {{- fail (printf "svidmail.inject: %s has hostNetwork: true, so every process of the node could send mail through 127.0.0.1; leave hostNetwork out, or set svidmail.config.smtp.allow_host_network: true" (index . 3)) -}}
{{- end -}}
{{- $here := list -}}
{{- range concat ($spec.initContainers | default list) $spec.containers -}}
  {{- $here = append $here .name -}}
{{- end -}}
{{- if not (has "svidmail" $here) -}}
  {{- $container := include "svidmail.sidecar.container" $values | fromYaml -}}
  {{- $_ := set $spec "initContainers" (prepend ($spec.initContainers | default list) $container) -}}
  {{- $names := list -}}
  {{- range $spec.volumes -}}
    {{- $names = append $names .name -}}
  {{- end -}}
  {{- range ((index . 2).spec).volumeClaimTemplates -}}
    {{- $names = append $names .metadata.name -}}
  {{- end -}}
  {{- range $volume := include "svidmail.sidecar.volumes" $values | fromYamlArray -}}
    {{- if not (has $volume.name $names) -}}
      {{- $_ := set $spec "volumes" (append ($spec.volumes | default list) $volume) -}}
    {{- end -}}
  {{- end -}}
  {{- $metadata := $pod.metadata | default dict -}}
  {{- $annotations := include "svidmail.mergedAnnotations" (list $values ($metadata.annotations | default dict)) | fromYaml -}}
  {{- /* A Job's pod template cannot be changed: helm upgrade would fail. */ -}}
  {{- if eq ((index . 2).kind | default "") "Job" -}}
    {{- $_ := unset $annotations "checksum/svidmail-config" -}}
  {{- end -}}
  {{- $_ := set $metadata "annotations" $annotations -}}
  {{- $_ := set $metadata "labels" (set ($metadata.labels | default dict) "svidmail.io/inject" "true") -}}
  {{- $_ := set $pod "metadata" $metadata -}}
{{- end -}}
{{- end -}}

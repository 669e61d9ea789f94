{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* What the sidecar is made of when the chart that includes it says nothing.  helm/svidmail/values.yaml documents the
     same keys, and a test holds the two together. */}}
{{- define "svidmail.defaults" -}}
enabled: true
image:
  registry: ""
  repository: svidmail
  tag: ""
  digest: ""
  pullPolicy: IfNotPresent
config: {}
configMap:
  create: true
  name: ""
  labels: {}
  annotations: {}
spiffe:
  csiDriver: csi.spiffe.io
  socket: spire-agent.sock
spool:
  sizeLimit: 1200Mi
istio:
  excludeOutboundPorts: []
  excludeInboundPorts: []
resources:
  requests:
    cpu: 5m
    memory: 16Mi
  limits:
    memory: 64Mi
extraEnv: []
extraVolumes: []
extraVolumeMounts: []
{{- end -}}

{{/* The chart's values under the key svidmail, laid over the defaults; checked.  Argument: the root of a chart that
     has svidmail or svidmail-lib as a dependency. */}}
{{- define "svidmail.values" -}}
{{- $given := .Values.svidmail | default dict -}}
{{- $values := include "svidmail.overlay" $given | fromYaml -}}
{{- if and $values.enabled (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
  {{- /* helm looks at kubeVersion of the app's own chart only. */ -}}
  {{- fail (printf "svidmail: native sidecars (restartPolicy in initContainers) came with Kubernetes 1.29, and this is %s: the app would wait for svidmail to end; set svidmail.enabled: false" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- $name := $values.configMap.name -}}
{{- if not $name -}}
  {{- $name = include "svidmail.configMapName" (list .Release.Name (and (hasKey .Subcharts "svidmail") $values.configMap.create | ternary .Chart.Name "")) -}}
{{- end -}}
{{- $_ := set $values.configMap "name" $name -}}
{{- include "svidmail.check" (list "svidmail." $values) -}}
{{- toYaml $values -}}
{{- end -}}

{{/* Values laid over the defaults: two levels, so that image.tag alone may be given, and a map below (limits) is taken
     as it is.  Argument: the values.  sprig's merge would not let false or "" win over a default. */}}
{{- define "svidmail.overlay" -}}
{{- $values := include "svidmail.defaults" . | fromYaml -}}
{{- $others := list "global" "podMonitor" "svidmail-lib" -}}
{{- range $key, $value := . -}}
  {{- if has $key $others -}}
  {{- else if not (hasKey $values $key) -}}
    {{- fail (printf "svidmail: unknown value %q; known are: %s" $key (join ", " (keys $values | sortAlpha))) -}}
  {{- else if not (kindIs "map" $value) -}}
    {{- $_ := set $values $key $value -}}
  {{- else -}}
    {{- $known := get $values $key -}}
    {{- range $k, $v := $value -}}
      {{- if and (not (hasKey $known $k)) (not (has $key (list "config" "resources"))) -}}
        {{- fail (printf "svidmail: unknown value \"%s.%s\"; known are: %s" $key $k (join ", " (keys $known | sortAlpha))) -}}
      {{- end -}}
      {{- $_ := set $known $k $v -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{/* "svidmail" where the ConfigMap stands by itself in its namespace; with the release's name, and the app chart's where
     that does not end in it, where every app's chart brings its own.  Argument: list RELEASE-NAME APP-CHART, APP-CHART
     being "" where there is none. */}}
{{- define "svidmail.configMapName" -}}
{{- $release := index . 0 -}}
{{- $chart := index . 1 -}}
{{- if not $chart -}}
svidmail
{{- else if or (eq $release $chart) (hasSuffix (printf "-%s" $chart) $release) -}}
  {{- printf "%s-svidmail" $release -}}
{{- else -}}
  {{- printf "%s-svidmail" (printf "%s-%s" $release $chart | lower | replace "_" "-" | trunc 240 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* The text of svidmail.yaml.  Helm's YAML 1.1 reads a bare off as false, which svidmail would refuse. */}}
{{- define "svidmail.configText" -}}
{{- $config := deepCopy .config -}}
{{- if and (kindIs "map" $config.log) (kindIs "bool" ($config.log).recipients) -}}
  {{- $_ := set $config.log "recipients" "off" -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

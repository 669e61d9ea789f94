{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* This chart's own values as the library takes them, the ConfigMap's name being settled. */}}
{{- define "svidmail.chartValues" -}}
{{- $values := include "svidmail.overlay" .Values | fromYaml -}}
{{- if not $values.configMap.name -}}
  {{- /* A subchart knows its parent by the path of its files alone: …/APP/charts/svidmail/templates. */ -}}
  {{- $app := .Chart.IsRoot | ternary "" (.Template.BasePath | dir | dir | dir | base) -}}
  {{- $_ := set $values.configMap "name" (include "svidmail.configMapName" (list .Release.Name $app)) -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{- define "svidmail.chartLabels" -}}
app.kubernetes.io/name: svidmail
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: configuration
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{/* Lines about values that a ConfigMap by itself cannot bring into a pod.  Argument: the values. */}}
{{- define "svidmail.chartUnused" -}}
{{- $values := . -}}
{{- $defaults := include "svidmail.defaults" . | fromYaml -}}
{{- range list "image" "spiffe" "spool" "resources" "extraEnv" "extraVolumes" "extraVolumeMounts" "istio" }}
  {{- if ne (get $values . | toJson) (get $defaults . | toJson) }}
{{ printf "%s: of no effect here, where the chart makes the ConfigMap alone; labelled pods have mail-egress's %s, those of an app's chart its svidmail.%s" . (eq . "istio" | ternary . (printf "injection.%s" .)) . }}
  {{- end }}
{{- end }}
{{- $usual := dict "api" 9443 "end_to_end" 9444 "smtp" 9465 -}}
{{- range $via, $port := ($values.config.gateway).ports }}
  {{- if ne (int $port) (get $usual $via | int) }}
{{ printf "config.gateway.ports.%s is %d: in labelled pods the gateway.ports of mail-egress go past istio-proxy; see that this is one of them" $via (int $port) }}
  {{- end }}
{{- end }}
{{- if ne (include "svidmail.sidecar.metricsPort" $values) "9925" }}
{{ printf "config.admin.metrics_listen is %q: in labelled pods the port 9925 alone is named for Prometheus and goes past istio-proxy" $values.config.admin.metrics_listen }}
{{- end }}
{{- end -}}

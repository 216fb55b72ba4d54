{{- define "gsv.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end }}

{{- define "gsv.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "gsv.name" .) .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gsv.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "gsv.serverName" -}}
{{ include "gsv.fullname" . }}-triton
{{- end }}

{{- define "gsv.gatewayName" -}}
{{ include "gsv.fullname" . }}-gateway
{{- end }}

{{/* Labels that tell one release's pods from all others; the caller adds the component. */}}
{{- define "gsv.selector" -}}
app.kubernetes.io/name: {{ include "gsv.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gsv.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "gsv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gsv.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gsv.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "gsv.image" -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{/*
The command of the liveness probe: the server speaks a syllable, or answers others.
*/}}
{{- define "gsv.aliveCommand" -}}
["gsv", "probe", "--quiet", "--url=grpc://127.0.0.1:8001", "--stream", "--timeout=15", "--liveness=http://127.0.0.1:8002/metrics"]
{{- end }}

{{/* Seconds that Triton gets to unload its models after the last request, and a margin. */}}
{{- define "gsv.terminationGracePeriod" -}}
{{ add .Values.server.preStopSeconds .Values.server.exitTimeout 10 5 }}
{{- end }}

{{- define "gsv.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "gsv.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Everything that is written goes to /cache and /tmp: kernels that PyTorch, CUDA and Triton's language compile. */}}
{{- define "gsv.environment" -}}
- {name: HOME, value: /cache}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: TMPDIR, value: /tmp}
{{- end }}

{{- define "gsv.repositoryVolume" -}}
{{- if .Values.repository.existingClaim -}}
persistentVolumeClaim: {claimName: {{ .Values.repository.existingClaim }}}
{{- else if .Values.repository.hostPath -}}
hostPath: {path: {{ .Values.repository.hostPath }}, type: Directory}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end }}

{{- define "gsv.voicesVolume" -}}
{{- if .Values.voices.existingClaim -}}
persistentVolumeClaim: {claimName: {{ .Values.voices.existingClaim }}}
{{- else if .Values.voices.hostPath -}}
hostPath: {path: {{ .Values.voices.hostPath }}, type: Directory}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end }}

{{/* Combinations that cannot work, each with what to do. */}}
{{- define "gsv.check" -}}
{{- $sources := compact (list .Values.repository.existingClaim .Values.repository.hostPath .Values.repository.demo) -}}
{{- if ne (len $sources) 1 -}}
{{- fail (printf "repository: set exactly one of existingClaim, hostPath and demo; %d are set" (len $sources)) -}}
{{- end -}}
{{- if and .Values.voices.existingClaim .Values.voices.hostPath -}}
{{- fail "voices: set existingClaim or hostPath, not both" -}}
{{- end -}}
{{- if and .Values.repository.prepare.enabled (not .Values.repository.existingClaim) -}}
{{- fail "repository.prepare fills a claim: set repository.existingClaim" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.open) (not .Values.gateway.keysSecret.name) -}}
{{- fail "gateway: name the secret with its API keys in gateway.keysSecret.name, or set gateway.open to let everybody in" -}}
{{- end -}}
{{- if and (ne .Values.server.mps "off") (eq (int .Values.server.gpus) 0) -}}
{{- fail "server.mps needs a GPU: set server.gpus to 1 or server.mps to off" -}}
{{- end -}}
{{- if and (ne .Values.server.mps "off") (contains "/mig-" .Values.server.gpuResource) -}}
{{- fail "server.mps does not work on a MIG partition: set it to off" -}}
{{- end -}}
{{- $oldest := div (mul .Values.server.connectionAgeSeconds 11) 10 -}}
{{- if and .Values.server.connectionAgeSeconds (le (int .Values.server.preStopSeconds) (int $oldest)) -}}
{{- fail (printf "server.preStopSeconds: %d is too short for connections that live %d s: requests would go on coming while the pod stops; allowed: more than %d" (int .Values.server.preStopSeconds) (int .Values.server.connectionAgeSeconds) (int $oldest)) -}}
{{- end -}}
{{- if and .Values.server.tracing.url .Values.networkPolicy.enabled .Values.networkPolicy.restrictEgress (not .Values.networkPolicy.tracesTo) -}}
{{- fail "server.tracing.url: pods may not call it; name the collector's pods in networkPolicy.tracesTo" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling: minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- if and (eq (int .Values.autoscaling.requestsInFlight) 0) (eq (int .Values.autoscaling.firstAudioMilliseconds) 0) -}}
{{- fail "autoscaling: no metric is left; set requestsInFlight or firstAudioMilliseconds" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.ingress.enabled (not .Values.gateway.ingress.host) -}}
{{- fail "gateway.ingress: set host" -}}
{{- end -}}
{{- end }}

# shellcheck shell=bash
# Everything where a package puts it; a local Cloud and a model upstream beside it.

install -m 755 /root/programs/aisix /usr/bin/
install -D -m 755 /root/programs/aisix-worker /usr/libexec/aisix/aisix-worker
install -D -m 644 -t /usr/lib/systemd/system /root/systemd/aisix.service /root/systemd/aisix.socket
install -D -m 644 -t /usr/share/man/man8 /root/packaging/man/*.8
install -D -m 644 /root/systemd/aisix.sysusers.conf /usr/lib/sysusers.d/aisix.conf
install -D -m 644 /root/systemd/aisix.tmpfiles.conf /usr/lib/tmpfiles.d/aisix.conf
check "users are made" systemd-sysusers aisix.conf 2>/dev/null
check "folders are made" systemd-tmpfiles --create aisix.conf
check "the bundle's folder is for root and the group" [ "$(stat -c '%a %U %G' /etc/aisix/mtls)" = "750 root aisix" ]
install -m 644 /root/packaging/config.managed.yaml /etc/aisix/
# Development programs need the loader and the libraries of the machine; those of the packages do not.
if ldd /usr/bin/aisix 2>/dev/null | grep '=>' >/dev/null; then
    note "these programs are linked dynamically: ExecPaths= has the libraries, too"
    printf '[Service]\nExecPaths=/usr/lib /usr/lib64\n' | drop_in aisix.service dynamic
fi

environment=11111111-2222-3333-4444-555555555555
cat >/root/resources.yaml <<R
environments:
  $environment:
    provider_keys: {pk-1: {display_name: up, provider: openai, adapter: openai, api_key: sk-upstream, api_base: "http://127.0.0.1:8081/v1"}}
    models:
      m-1: {display_name: fast, provider: openai, model_name: small-1, provider_key_id: pk-1}
      m-2: {display_name: slow, provider: openai, model_name: slow-20, provider_key_id: pk-1}
      m-3: {display_name: slower, provider: openai, model_name: slow-400, provider_key_id: pk-1}
    api_keys: {k-1: {key: sk-demo, allowed_models: ["*"]}}
    cache_policies: {c-1: {name: faq, applies_to: "model:fast"}}
R
systemd-run --quiet --unit=cloud /root/tools/aisix-cloud serve --data /root/cloud --resources /root/resources.yaml
systemd-run --quiet --unit=upstream /root/tools/aisix-upstream
check "the local Cloud is there" until_true 20 curl -sf -o /dev/null http://127.0.0.1:7945/environments
/root/tools/aisix-cloud issue --data /root/cloud --env $environment --out /root/mtls >/dev/null
install -o aisix -m 600 /root/mtls/* /etc/aisix/mtls/
cat >/etc/aisix/aisix.env <<'E'
AISIX_MANAGED__CP_BASE_URL=https://127.0.0.1:7944
AISIX_SHUTDOWN__MIN_DRAIN_SECS=0
AISIX_PROXY__WORKERS=2
E
chmod 600 /etc/aisix/aisix.env
systemctl daemon-reload

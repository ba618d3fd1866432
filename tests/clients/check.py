"""The official OpenAI and Anthropic clients against a gateway, through every pair of caller dialect and provider.

Starts an etcd, writes resource documents into it, starts the gateway in front of it without a Cloud, and asks. Each check is
a line; a failure is told with its reason and makes the exit status 1. Usage: check.py FOLDER-OF-PROGRAMS [PAIR ...]
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

import anthropic
import openai

import upstreams

CALLER = "sk-clients"
PREFIX = "/clients"

# How each provider is configured, with the address of the upstream in place of BASE.
PROVIDERS = {
    "openai": {"provider": "openai", "adapter": "openai", "api_base": "BASE/v1"},
    "anthropic": {"provider": "anthropic", "adapter": "anthropic", "api_base": "BASE"},
    "azure-openai": {"provider": "azure", "adapter": "azure-openai", "api_base": "BASE"},
    "vertex": {"provider": "google", "adapter": "vertex", "api_base": "BASE/v1"},
    "bedrock": {
        "provider": "amazon-bedrock", "adapter": "bedrock", "api_base": "BASE",
        "api_key": "AKIDEXAMPLE:secret",
    },
}

# Every pair: which client, and which provider answers. Models of a provider have its name before theirs.
PAIRS = [(dialect, provider) for dialect in ("openai", "anthropic") for provider in PROVIDERS]

ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


def equal(found, expected):
    """Says what was found, if it is not what was expected."""
    if found != expected:
        raise AssertionError(f"expected {expected!r}, found {found!r}")


def fails(status, kind, call):
    """The call fails with this status, as this exception of the client's."""
    try:
        call()
    except kind as error:
        equal(error.status_code, status)
        return error
    raise AssertionError(f"expected status {status}, and there was none")


class OpenAi:
    """What an OpenAI client does."""

    errors = openai

    def __init__(self, url, provider):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=CALLER, max_retries=0, timeout=20)
        self.stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-nobody", max_retries=0, timeout=20)
        self.provider = provider

    def model(self, name):
        return f"{self.provider}-{name}"

    def ask(self, client=None, model="chat", text="one two three", **more):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        client = client or self.client
        return client.chat.completions.create(model=self.model(model), messages=messages, **more)

    def chat(self):
        answer = self.ask()
        equal(answer.choices[0].message.content, "You said: one two three")
        equal(answer.choices[0].finish_reason, "stop")
        equal((answer.usage.prompt_tokens, answer.usage.completion_tokens), (7, 5))

    def stream(self):
        chunks = list(self.ask(stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        equal(text, "You said: one two three")
        equal([it.choices[0].finish_reason for it in chunks if it.choices][-1], "stop")
        equal([chunk.usage for chunk in chunks if chunk.usage], [])

    def stream_usage(self):
        chunks = list(self.ask(stream=True, stream_options={"include_usage": True}))
        usage = chunks[-1].usage
        equal((usage.prompt_tokens, usage.completion_tokens, chunks[-1].choices), (7, 5, []))

    def images(self):
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
        content = [{"type": "text", "text": "look"}, part]
        answer = self.client.chat.completions.create(
            model=self.model("chat"), messages=[{"role": "user", "content": content}]
        )
        equal(answer.choices[0].message.content, "You said: look")

    def agent(self, turn):
        messages = [{"role": "user", "content": "add up"}]
        function = {"name": "add", "description": "adds", "parameters": ADD}
        tools = [{"type": "function", "function": function}]
        for done in range(10):
            message = turn(messages, tools)
            if not message["tool_calls"]:
                equal(done, upstreams.CALLS)
                equal(message["content"], "done after 3 calls, the last result is 12")
                return
            messages.append(message)
            for call in message["tool_calls"]:
                equal(call["function"]["name"], "add")
                arguments = json.loads(call["function"]["arguments"])
                result = str(arguments["a"] + arguments["b"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        raise AssertionError("the loop does not end")

    def tools(self):
        def turn(messages, tools):
            answer = self.client.chat.completions.create(
                model=self.model("chat"), messages=messages, tools=tools
            )
            choice = answer.choices[0]
            calls = [call.model_dump() for call in choice.message.tool_calls or []]
            equal(choice.finish_reason, "tool_calls" if calls else "stop")
            return {"role": "assistant", "content": choice.message.content, "tool_calls": calls}

        self.agent(turn)

    def stream_tools(self):
        def turn(messages, tools):
            text, calls = "", {}
            for chunk in self.client.chat.completions.create(
                model=self.model("chat"), messages=messages, tools=tools, stream=True
            ):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    for part in choice.delta.tool_calls or []:
                        empty = {"type": "function", "function": {"name": "", "arguments": ""}}
                        call = calls.setdefault(part.index, empty)
                        if part.id:
                            call["id"] = part.id
                        call["function"]["name"] += part.function.name or ""
                        call["function"]["arguments"] += part.function.arguments or ""
            return {"role": "assistant", "content": text or None, "tool_calls": list(calls.values())}

        self.agent(turn)

    def json_mode(self):
        answer = self.ask(text="Answer in JSON.", response_format={"type": "json_object"})
        equal(json.loads(answer.choices[0].message.content), {"answer": 42})

    def models(self):
        names = [model.id for model in self.client.models.list()]
        equal(self.model("chat") in names, True)

    checks = [
        "chat", "stream", "stream_usage", "images", "tools", "stream_tools", "json_mode", "models",
        "rate_limited", "bad_request", "upstream_failed", "stream_failed", "unknown_model", "unknown_key",
    ]


class Anthropic:
    """What an Anthropic client does."""

    errors = anthropic

    def __init__(self, url, provider):
        self.client = anthropic.Anthropic(base_url=url, api_key=CALLER, max_retries=0, timeout=20)
        self.stranger = anthropic.Anthropic(base_url=url, api_key="sk-nobody", max_retries=0, timeout=20)
        self.provider = provider

    def model(self, name):
        return f"{self.provider}-{name}"

    def ask(self, client=None, model="chat", text="one two three", stream=False):
        messages = [{"role": "user", "content": text}]
        client = client or self.client
        return client.messages.create(
            model=self.model(model), max_tokens=100, system="Be brief.", messages=messages, stream=stream
        )

    def chat(self):
        answer = self.ask()
        equal([(block.type, block.text) for block in answer.content], [("text", "You said: one two three")])
        equal(answer.stop_reason, "end_turn")
        equal((answer.usage.input_tokens, answer.usage.output_tokens), (7, 5))

    def stream(self):
        messages = [{"role": "user", "content": "one two three"}]
        with self.client.messages.stream(
            model=self.model("chat"), max_tokens=100, messages=messages
        ) as stream:
            equal("".join(stream.text_stream), "You said: one two three")
            answer = stream.get_final_message()
        equal((answer.stop_reason, answer.usage.output_tokens), ("end_turn", 5))

    def images(self):
        source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "look"}]
        answer = self.ask(text=content)
        equal(answer.content[0].text, "You said: look")

    def agent(self, turn):
        messages = [{"role": "user", "content": "add up"}]
        tools = [{"name": "add", "description": "adds", "input_schema": ADD}]
        for done in range(10):
            answer = turn(messages, tools)
            if answer.stop_reason != "tool_use":
                equal(done, upstreams.CALLS)
                equal(answer.content[0].text, "done after 3 calls, the last result is 12")
                return
            messages.append({"role": "assistant", "content": answer.content})
            results = []
            for block in answer.content:
                if block.type == "tool_use":
                    result = str(block.input["a"] + block.input["b"])
                    results.append({"type": "tool_result", "tool_use_id": block.id, "content": result})
            messages.append({"role": "user", "content": results})
        raise AssertionError("the loop does not end")

    def tools(self):
        self.agent(
            lambda messages, tools: self.client.messages.create(
                model=self.model("chat"), max_tokens=100, messages=messages, tools=tools
            )
        )

    def stream_tools(self):
        def turn(messages, tools):
            with self.client.messages.stream(
                model=self.model("chat"), max_tokens=100, messages=messages, tools=tools
            ) as stream:
                return stream.get_final_message()

        self.agent(turn)

    def count_tokens(self):
        messages = [{"role": "user", "content": "one two three"}]
        counted = self.client.messages.count_tokens(model=self.model("chat"), messages=messages)
        equal(counted.input_tokens > 0, True)

    checks = [
        "chat", "stream", "images", "tools", "stream_tools", "count_tokens",
        "rate_limited", "bad_request", "upstream_failed", "stream_failed", "unknown_model", "unknown_key",
    ]


class Failures:
    """How failures come, the same for both clients."""

    def rate_limited(self):
        error = fails(429, self.errors.RateLimitError, lambda: self.ask(model="fail-429"))
        equal(error.response.headers.get("retry-after"), "7")

    def bad_request(self):
        error = fails(400, self.errors.BadRequestError, lambda: self.ask(model="fail-400"))
        equal("scripted 400" in str(error), True)

    def upstream_failed(self):
        error = fails(502, self.errors.InternalServerError, lambda: self.ask(model="fail-500"))
        equal("scripted" in str(error), False)

    def stream_failed(self):
        fails(429, self.errors.RateLimitError, lambda: list(self.ask(model="fail-429", stream=True)))

    def unknown_model(self):
        fails(404, self.errors.NotFoundError, lambda: self.ask(model="nothing"))

    def unknown_key(self):
        fails(401, self.errors.AuthenticationError, lambda: self.ask(client=self.stranger))


DIALECTS = {
    "openai": type("OpenAiChecks", (Failures, OpenAi), {}),
    "anthropic": type("AnthropicChecks", (Failures, Anthropic), {}),
}

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, look, seconds=60):
    """Looks until it is true."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds} s until {what}")
        time.sleep(0.05)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def documents(base, providers):
    """Resource documents by key."""
    key_hash = hashlib.sha256(CALLER.encode()).hexdigest()
    yield "api_keys/k", {"key_hash": key_hash, "allowed_models": ["*"]}
    for provider in providers:
        document = {"display_name": provider, "api_key": upstreams.SECRET, **PROVIDERS[provider]}
        document["api_base"] = document["api_base"].replace("BASE", base)
        yield f"provider_keys/{provider}", document
        for name in ("chat", "fail-400", "fail-429", "fail-500"):
            model = {
                "display_name": f"{provider}-{name}", "provider": document["provider"],
                "model_name": name, "provider_key_id": provider,
            }
            yield f"models/{provider}-{name}", model


class Site:
    """An etcd and a gateway, in a folder of their own."""

    def __init__(self, programs, providers):
        self.folder = tempfile.mkdtemp(prefix="aisix-clients-")
        self.processes = []
        clients, peers, proxy, status = (free_port() for _ in range(4))
        self.url, etcd = f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{clients}"
        peer = f"http://127.0.0.1:{peers}"
        self.run(
            "etcd", "--data-dir", f"{self.folder}/etcd", "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
            "--log-level", "warn",
        )
        until("etcd is healthy", lambda: answers(f"{etcd}/health"))
        base = f"http://127.0.0.1:{upstreams.start()}"
        for key, document in documents(base, providers):
            command = ["etcdctl", "--endpoints", etcd, "put", f"{PREFIX}/{key}", json.dumps(document)]
            environment = {**os.environ, "ETCDCTL_API": "3"}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        configuration = {
            "etcd": {"endpoints": [etcd], "prefix": PREFIX},
            "managed": {"enabled": False},
            "proxy": {"addr": f"127.0.0.1:{proxy}", "workers": 2},
            "observability": {"metrics": {"prometheus": {"addr": f"127.0.0.1:{status}"}}},
            "shutdown": {"min_drain_secs": 0},
        }
        # JSON is YAML.
        path = f"{self.folder}/config.yaml"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(configuration, file)
        self.run(f"{programs}/aisix", "--config", path, AISIX_UPSTREAM__RETRIES="0")
        until("the gateway is ready", lambda: answers(f"http://127.0.0.1:{status}/readyz") or answers(f"{self.url}/readyz"))

    def run(self, *command, **environment):
        log = open(f"{self.folder}/{os.path.basename(command[0])}.log", "wb")
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AISIX_")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**mine, **environment})
        self.processes.append(process)

    def end(self, failed):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if failed:
            print(f"the logs are in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    programs = os.path.realpath(sys.argv[1])
    wanted = sys.argv[2:]
    pairs = [pair for pair in PAIRS if not wanted or ":".join(pair) in wanted]
    if not pairs:
        raise SystemExit(f"no such pair; there are {' '.join(':'.join(pair) for pair in PAIRS)}")
    print(f"openai {openai.__version__}, anthropic {anthropic.__version__}")
    site, failed = None, 0
    try:
        site = Site(programs, {provider for _, provider in pairs})
        for dialect, provider in pairs:
            checks = DIALECTS[dialect](site.url, provider)
            for name in checks.checks:
                label = f"{dialect} client, {provider} provider: {name.replace('_', ' ')}"
                try:
                    getattr(checks, name)()
                    print(f"ok    {label}", flush=True)
                except Exception as error:  # whatever a client may throw is a failure of the check
                    failed += 1
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    print(f"FAIL  {label}: {type(error).__name__}: {error} (line {where.lineno})", flush=True)
    finally:
        if site:
            site.end(failed)
    print(f"{failed} failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

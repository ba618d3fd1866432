"""Model providers that a test knows by heart: OpenAI, Azure, Anthropic, Gemini and Bedrock, each in its own words.

All of them are the same small agent. It says "You said: ..." unless it is offered the tool `add`: then it calls that three
times, and tells the last result. It is strict about what an agent loop must keep: a result for a call that it never made is
refused. Models named `fail-STATUS` fail with that status.
"""

import binascii
import json
import re
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

CALLS = 3
SECRET = "sk-upstream"


class Refused(Exception):
    """The request is not one that the provider takes."""


class Asked:
    """A request, whatever the dialect."""

    def __init__(self, model, text, tools, calls, results, stream):
        self.model, self.text, self.tools, self.stream = model, text, tools, stream
        for call, _ in results:
            if call not in calls:
                raise Refused(f"there is a result for the call {call!r}, which was never made")
        if len(results) != len(calls):
            raise Refused(f"{len(calls)} calls were made, and {len(results)} have a result")
        self.results = [text for _, text in results]


class Said:
    """An answer, whatever the dialect: a text, or a call of a tool."""

    def __init__(self, asked):
        done = len(asked.results)
        self.call = None
        self.text = ""
        if asked.tools and "add" not in asked.tools:
            # A dialect without a JSON mode of its own asks for JSON in this way.
            self.call = (asked.tools[0], {"answer": 42})
        elif asked.tools and done < CALLS:
            self.call = ("add", {"a": done, "b": 10})
        elif asked.tools:
            self.text = f"done after {done} calls, the last result is {asked.results[-1]}"
        elif "JSON" in asked.text:
            self.text = '{"answer": 42}'
        else:
            self.text = f"You said: {asked.text}"
        self.id = f"call_{done}"
        self.prompt_tokens = 7
        self.completion_tokens = 5

    def words(self):
        return re.findall(r"\S+\s*", self.text)

    def arguments(self):
        return json.dumps(self.call[1])


def text_of(content):
    """The text of a content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or [] if isinstance(part, dict))


class OpenAi:
    """Chat completions."""

    @staticmethod
    def read(body, model=None):
        calls, results, text = [], [], ""
        for message in body["messages"]:
            calls += [call["id"] for call in message.get("tool_calls") or []]
            if message["role"] == "tool":
                results.append((message["tool_call_id"], text_of(message["content"])))
            if message["role"] == "user":
                text = text_of(message["content"])
        tools = [tool["function"]["name"] for tool in body.get("tools") or []]
        return Asked(model or body["model"], text, tools, calls, results, body.get("stream"))

    @staticmethod
    def error(status):
        return {"error": {"message": f"scripted {status}", "type": "scripted", "code": None, "param": None}}

    @staticmethod
    def usage(said):
        total = said.prompt_tokens + said.completion_tokens
        return {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens, "total_tokens": total}

    @classmethod
    def whole(cls, asked, said):
        message = {"role": "assistant", "content": said.text or None}
        if said.call:
            function = {"name": said.call[0], "arguments": said.arguments()}
            message["tool_calls"] = [{"id": said.id, "type": "function", "function": function}]
        finish = "tool_calls" if said.call else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.model,
            "choices": [choice], "usage": cls.usage(said),
        }

    @classmethod
    def stream(cls, asked, said, body):
        def chunk(choices, **more):
            head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked.model}
            return {**head, "choices": choices, **more}

        def delta(delta, finish=None):
            return chunk([{"index": 0, "delta": delta, "finish_reason": finish}])

        yield delta({"role": "assistant", "content": None if said.call else ""})
        if said.call:
            arguments = said.arguments()
            function = {"name": said.call[0], "arguments": ""}
            yield delta({"tool_calls": [{"index": 0, "id": said.id, "type": "function", "function": function}]})
            for part in (arguments[:5], arguments[5:]):
                yield delta({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        for word in said.words():
            yield delta({"content": word})
        yield delta({}, "tool_calls" if said.call else "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            yield chunk([], usage=cls.usage(said))

    @staticmethod
    def encode(events):
        for event in events:
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b"data: [DONE]\n\n"


class Anthropic:
    """Messages."""

    @staticmethod
    def read(body):
        calls, results, text = [], [], ""
        if not body.get("max_tokens"):
            raise Refused("max_tokens: field required")
        last = None
        for message in body["messages"]:
            if message["role"] == last:
                raise Refused("roles must alternate")
            last = message["role"]
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "tool_use":
                    calls.append(part["id"])
                elif part["type"] == "tool_result":
                    results.append((part["tool_use_id"], text_of(part.get("content"))))
                elif part["type"] == "text" and message["role"] == "user":
                    text = part["text"]
        tools = [tool["name"] for tool in body.get("tools") or []]
        return Asked(body["model"], text, tools, calls, results, body.get("stream"))

    @staticmethod
    def error(status):
        kinds = {400: "invalid_request_error", 429: "rate_limit_error"}
        return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": f"scripted {status}"}}

    @staticmethod
    def block(said):
        if said.call:
            return {"type": "tool_use", "id": said.id, "name": said.call[0], "input": said.call[1]}
        return {"type": "text", "text": said.text}

    @classmethod
    def whole(cls, asked, said):
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked.model,
            "content": [cls.block(said)], "stop_reason": "tool_use" if said.call else "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens},
        }

    @classmethod
    def stream(cls, asked, said, _):
        head = {**cls.whole(asked, said), "content": [], "stop_reason": None}
        head["usage"] = {"input_tokens": said.prompt_tokens, "output_tokens": 1}
        yield {"type": "message_start", "message": head}
        empty = {**cls.block(said), **({"input": {}} if said.call else {"text": ""})}
        yield {"type": "content_block_start", "index": 0, "content_block": empty}
        yield {"type": "ping"}
        if said.call:
            arguments = said.arguments()
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in (arguments[:5], arguments[5:])]
        else:
            deltas = [{"type": "text_delta", "text": word} for word in said.words()]
        for delta in deltas:
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        reason = "tool_use" if said.call else "end_turn"
        usage = {"output_tokens": said.completion_tokens}
        yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
        yield {"type": "message_stop"}

    @staticmethod
    def encode(events):
        for event in events:
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class Gemini:
    """generateContent."""

    @staticmethod
    def read(body, model, stream):
        calls, results, text = [], [], ""
        for content in body["contents"]:
            for part in content["parts"]:
                if "functionCall" in part:
                    calls.append(part["functionCall"]["name"])
                elif "functionResponse" in part:
                    response = part["functionResponse"]
                    results.append((response["name"], "".join(str(value) for value in response["response"].values())))
                elif "text" in part and content.get("role") == "user":
                    text = part["text"]
        declared = [tool for tools in body.get("tools") or [] for tool in tools.get("functionDeclarations") or []]
        return Asked(model, text, [tool["name"] for tool in declared], calls, results, stream)

    @staticmethod
    def error(status):
        words = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED"}
        return {"error": {"code": status, "message": f"scripted {status}", "status": words.get(status, "INTERNAL")}}

    @staticmethod
    def answer(asked, said, parts, finish):
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        usage = {
            "promptTokenCount": said.prompt_tokens, "candidatesTokenCount": said.completion_tokens,
            "totalTokenCount": said.prompt_tokens + said.completion_tokens,
        }
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model, "responseId": "resp-1"}

    @classmethod
    def parts(cls, said):
        return [{"functionCall": {"name": said.call[0], "args": said.call[1]}}] if said.call else [{"text": said.text}]

    @classmethod
    def whole(cls, asked, said):
        return cls.answer(asked, said, cls.parts(said), "STOP")

    @classmethod
    def stream(cls, asked, said, _):
        if said.call:
            yield cls.answer(asked, said, cls.parts(said), "STOP")
            return
        words = said.words()
        for index, word in enumerate(words):
            yield cls.answer(asked, said, [{"text": word}], "STOP" if index + 1 == len(words) else None)

    @staticmethod
    def encode(events):
        for event in events:
            yield f"data: {json.dumps(event)}\r\n\r\n".encode()


class Bedrock:
    """Converse."""

    @staticmethod
    def read(body, model, stream):
        calls, results, text = [], [], ""
        for message in body["messages"]:
            for part in message["content"]:
                if "toolUse" in part:
                    calls.append(part["toolUse"]["toolUseId"])
                elif "toolResult" in part:
                    result = part["toolResult"]
                    told = [it.get("text") or json.dumps(it.get("json")) for it in result["content"]]
                    results.append((result["toolUseId"], "".join(told)))
                elif "text" in part and message["role"] == "user":
                    text = part["text"]
        tools = [tool["toolSpec"]["name"] for tool in (body.get("toolConfig") or {}).get("tools") or [] if "toolSpec" in tool]
        return Asked(model, text, tools, calls, results, stream)

    @staticmethod
    def error(status):
        return {"message": f"scripted {status}"}

    @staticmethod
    def usage(said):
        total = said.prompt_tokens + said.completion_tokens
        return {"inputTokens": said.prompt_tokens, "outputTokens": said.completion_tokens, "totalTokens": total}

    @classmethod
    def whole(cls, _, said):
        if said.call:
            content = {"toolUse": {"toolUseId": said.id, "name": said.call[0], "input": said.call[1]}}
        else:
            content = {"text": said.text}
        message = {"role": "assistant", "content": [content]}
        stop = "tool_use" if said.call else "end_turn"
        return {"output": {"message": message}, "stopReason": stop, "usage": cls.usage(said), "metrics": {"latencyMs": 1}}

    @classmethod
    def stream(cls, _, said, __):
        yield {"messageStart": {"role": "assistant"}}
        if said.call:
            start = {"toolUse": {"toolUseId": said.id, "name": said.call[0]}}
            yield {"contentBlockStart": {"start": start, "contentBlockIndex": 0}}
            arguments = said.arguments()
            deltas = [{"toolUse": {"input": part}} for part in (arguments[:5], arguments[5:])]
        else:
            deltas = [{"text": word} for word in said.words()]
        for delta in deltas:
            yield {"contentBlockDelta": {"delta": delta, "contentBlockIndex": 0}}
        yield {"contentBlockStop": {"contentBlockIndex": 0}}
        yield {"messageStop": {"stopReason": "tool_use" if said.call else "end_turn"}}
        yield {"metadata": {"usage": cls.usage(said), "metrics": {"latencyMs": 1}}}

    @staticmethod
    def encode(events):
        for event in events:
            ((name, body),) = event.items()
            headers = b""
            for key, value in ((":event-type", name), (":content-type", "application/json"), (":message-type", "event")):
                headers += bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
            payload = json.dumps(body).encode()
            prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
            message = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
            yield message + struct.pack(">I", binascii.crc32(message))


class Handler(BaseHTTPRequestHandler):
    """Finds the provider by the path, as each of them has its own."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = unquote(urlsplit(self.path).path)
        gemini = re.search(r"/models/([^/:]+):(generateContent|streamGenerateContent)$", path)
        bedrock = re.search(r"/model/([^/]+)/(converse|converse-stream)$", path)
        bearer = (self.headers["authorization"] or "").removeprefix("Bearer ")
        azure = re.search(r"/deployments/([^/]+)/chat/completions$", path)
        dialect = OpenAi
        try:
            if path.endswith("/v1/messages/count_tokens"):
                return self.whole(200, {"input_tokens": len(json.dumps(body["messages"]).split())})
            if path.endswith("/v1/messages"):
                dialect, secret = Anthropic, self.headers["x-api-key"] or bearer
                asked = Anthropic.read(body)
            elif gemini:
                dialect, secret = Gemini, SECRET
                asked = Gemini.read(body, gemini[1], gemini[2] == "streamGenerateContent")
            elif bedrock:
                dialect, secret = Bedrock, SECRET if self.headers["authorization"] else None
                asked = Bedrock.read(body, bedrock[1], bedrock[2] == "converse-stream")
            elif azure:
                secret = self.headers["api-key"]
                asked = OpenAi.read(body, azure[1])
            elif path.endswith("/chat/completions"):
                secret = self.headers["api-key"] or bearer
                asked = OpenAi.read(body)
            else:
                return self.whole(404, {"error": {"message": f"no route {path}"}})
        except (Refused, KeyError, TypeError) as error:
            told = dialect.error(400)
            told = json.loads(json.dumps(told).replace("scripted 400", json.dumps(f"refused: {error!r}")[1:-1]))
            return self.whole(400, told)
        if secret != SECRET:
            return self.whole(401, dialect.error(401))
        if asked.model.startswith("fail-"):
            status = int(asked.model.removeprefix("fail-"))
            return self.whole(status, dialect.error(status))
        said = Said(asked)
        if not asked.stream:
            return self.whole(200, dialect.whole(asked, said))
        kind = "application/vnd.amazon.eventstream" if dialect is Bedrock else "text/event-stream"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in dialect.encode(dialect.stream(asked, said, body)):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def whole(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 429:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)


def start():
    """Starts all of them on one port. Returns its number."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]

-- Requests of wrk, the same one again and again. With the argument `fresh` each has a connection of its own. At the end one line
-- tells what came of them.
function init(arguments)
    wrk.method = "POST"
    wrk.headers["Authorization"] = "Bearer sk-demo"
    wrk.headers["Content-Type"] = "application/json"
    if arguments[1] == "fresh" then wrk.headers["Connection"] = "close" end
    wrk.body = '{"model":"gpt-demo","messages":[{"role":"user","content":"hello"}]}'
end

function done(summary)
    local errors = summary.errors
    io.write(string.format("requests %d failed %d (connect %d read %d write %d timeout %d status %d)\n", summary.requests,
        errors.connect + errors.read + errors.write + errors.timeout + errors.status,
        errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end

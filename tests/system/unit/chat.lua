-- Streaming requests that take a while. FRESH=1: a connection for each.
wrk.method = "POST"
wrk.body = '{"model":"slow","stream":true,"messages":[{"role":"user","content":"one two three four"}]}'
wrk.headers["Authorization"] = "Bearer sk-demo"
wrk.headers["Content-Type"] = "application/json"
if os.getenv("FRESH") then wrk.headers["Connection"] = "close" end

function done(summary)
    local e = summary.errors
    io.write(string.format("answered %d failed %d (connect %d read %d write %d timeout %d status %d)\n", summary.requests,
        e.connect + e.read + e.write + e.timeout + e.status, e.connect, e.read, e.write, e.timeout, e.status))
end

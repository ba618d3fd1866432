use super::*;
use crate::chat::Effort;

const CLAUDE: &str = "us.anthropic.claude-sonnet-4-20250514-v1:0";

fn text(text: &str) -> Part {
    Part::Text { text: text.to_owned(), cache: None }
}

fn marked(text: &str) -> Part {
    Part::Text { text: text.to_owned(), cache: Some(CacheMark::Short) }
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message { role, parts }
}

fn media(kind: MediaKind, media_type: &str) -> Part {
    let source = MediaSource::Base64 { media_type: media_type.to_owned(), data: "AAAA".to_owned() };
    Part::Media { kind, source, name: Some("a_b.pdf".to_owned()), cache: None }
}

#[test]
fn every_part_of_a_conversation_has_converse_s_words() {
    let call = Part::ToolCall {
        id: "c1".to_owned(),
        name: "find".to_owned(),
        arguments: "{\"x\":1}".to_owned(),
        cache: None,
    };
    let result = Part::ToolResult {
        id: "c1".to_owned(),
        parts: vec![text("broken")],
        is_error: true,
        cache: None,
    };
    let conversation = Conversation {
        system: vec![marked("be brief")],
        messages: vec![
            message(
                Role::User,
                vec![
                    text("look"),
                    text("  "),
                    media(MediaKind::Image, "image/jpg"),
                    media(MediaKind::Document, "application/pdf"),
                ],
            ),
            message(
                Role::Assistant,
                vec![
                    Part::Reasoning { text: "hm".to_owned(), signature: Some("s".to_owned()) },
                    Part::Reasoning { text: "unsigned".to_owned(), signature: None },
                    Part::HiddenReasoning("aGk=".to_owned()),
                    call,
                ],
            ),
            message(Role::User, vec![result]),
            message(Role::User, vec![text("go on")]),
        ],
        tools: vec![Tool {
            name: "find".to_owned(),
            description: Some("d".to_owned()),
            parameters: None,
            strict: None,
            cache: Some(CacheMark::Hour),
        }],
        tool_choice: Some(ToolChoice::Auto),
        max_tokens: Some(5000),
        temperature: Some(0.5),
        reasoning: Some(Reasoning::Budget(2000)),
        ..Conversation::default()
    };
    assert_eq!(
        body(&conversation, CLAUDE).unwrap(),
        json!({
            "system": [{"text": "be brief"}, {"cachePoint": {"type": "default"}}],
            "messages": [
                {"role": "user", "content": [
                    {"text": "look"},
                    {"image": {"format": "jpeg", "source": {"bytes": "AAAA"}}},
                    {"document": {"format": "pdf", "name": "a b pdf", "source": {"bytes": "AAAA"}}},
                ]},
                {"role": "assistant", "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                    {"reasoningContent": {"redactedContent": "aGk="}},
                    {"toolUse": {"toolUseId": "c1", "name": "find", "input": {"x": 1}}},
                ]},
                {"role": "user", "content": [
                    {"toolResult": {"toolUseId": "c1", "status": "error", "content": [{"text": "broken"}]}},
                    {"text": "go on"},
                ]},
            ],
            "inferenceConfig": {"maxTokens": 5000},
            "toolConfig": {
                "tools": [
                    {"toolSpec": {"name": "find", "description": "d",
                        "inputSchema": {"json": {"type": "object", "properties": {}}}}},
                    {"cachePoint": {"type": "default", "ttl": "1h"}},
                ],
                "toolChoice": {"auto": {}},
            },
            "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        })
    );
}

#[test]
fn a_mark_for_a_cache_is_only_for_models_that_have_one() {
    let conversation = Conversation { system: vec![marked("a")], ..Conversation::default() };
    let body = |model| body(&conversation, model).unwrap()["messages"][0]["content"].to_string();
    assert_eq!(body("meta.llama3"), r#"[{"text":"a"}]"#);
    assert!(body("amazon.nova-pro-v1:0").contains("cachePoint"));
}

#[test]
fn thoughts_leave_room_for_an_answer() {
    let budget = |max_tokens, reasoning| {
        let reasoning = Some(reasoning);
        let conversation = Conversation { max_tokens, reasoning, ..Conversation::default() };
        thinking(&conversation, Family::of(CLAUDE))
    };
    assert_eq!(budget(None, Reasoning::Effort(Effort::High)), Some(16_384));
    assert_eq!(budget(Some(4000), Reasoning::Effort(Effort::High)), Some(2000));
    assert_eq!(budget(Some(1000), Reasoning::Effort(Effort::High)), None);
    assert_eq!(budget(None, Reasoning::Off), None);
}

#[test]
fn nobody_thinks_where_a_tool_must_be_called_and_tools_called_before_are_still_named() {
    let conversation = Conversation {
        reasoning: Some(Reasoning::Effort(Effort::Low)),
        tool_choice: Some(ToolChoice::Any),
        ..Conversation::default()
    };
    assert_eq!(thinking(&conversation, Family::of(CLAUDE)), None);
    let call = Part::ToolCall {
        id: "c1".to_owned(),
        name: "find".to_owned(),
        arguments: String::new(),
        cache: None,
    };
    let messages = vec![message(Role::Assistant, vec![call])];
    let conversation = Conversation { messages, ..Conversation::default() };
    let tools = tools(&conversation, Family::of(CLAUDE)).unwrap();
    assert_eq!(tools["tools"][0]["toolSpec"]["name"], "find");
}

#[test]
fn a_wish_for_json_is_an_instruction() {
    let conversation = Conversation {
        messages: vec![message(Role::User, vec![text("a")])],
        format: Some(Format::Json),
        top_k: Some(5),
        ..Conversation::default()
    };
    let body = body(&conversation, CLAUDE).unwrap();
    assert!(body["system"][0]["text"].as_str().unwrap().contains("JSON"));
    assert_eq!(body["additionalModelRequestFields"], json!({"top_k": 5}));
}

#[test]
fn what_converse_does_not_fetch_is_refused_with_what_to_do() {
    let source = MediaSource::Url("https://x.example/a.png".to_owned());
    let part = Part::Media { kind: MediaKind::Image, source, name: None, cache: None };
    let messages = vec![message(Role::User, vec![part])];
    let error = body(&Conversation { messages, ..Default::default() }, "m").unwrap_err();
    assert!(error.to_string().contains("send the media itself"), "{error}");
}

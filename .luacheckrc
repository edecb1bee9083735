std = "lua54"
max_line_length = 120
codes = true
files["spec"] = { std = "+busted" }
files["lua/meta"] = { ignore = { "212", "241" } } -- annotations: functions without bodies

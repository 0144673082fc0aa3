"""config.yml: one strict schema, read with positions, with every problem reported at once.

section, inputs, learning, rollouts, machine     the sections, one model each
schema          the whole: `Config`, `json_schema`, `resolved`
weights         section 3 of the design: which taus a config means
yaml_file       text -> plain data and the place of every key
spellings       older names of keys
overrides       `key.path=value` from the command line
check           data -> Config and every problem in it
rules, advice   what the types cannot say: contradictions, and consequences worth knowing
facts           what is known of model names
availability    what the schema knows and the engine does not have yet
load            all of it together: `load_config`
"""

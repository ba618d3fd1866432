# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_aisix_global_optspecs
    string join \n c/config= handover= handover-failed= check-handover h/help V/version
end

function __fish_aisix_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_aisix_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_aisix_using_subcommand
    set -l cmd (__fish_aisix_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c aisix -n "__fish_aisix_needs_command" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_needs_command" -l handover -d 'Descriptor of a state to go on with; written by aisix itself, see `handover/exec.rs`' -r
complete -c aisix -n "__fish_aisix_needs_command" -l handover-failed -d 'Why the program that was to follow could not' -r
complete -c aisix -n "__fish_aisix_needs_command" -l check-handover -d 'Say whether the state on standard input could be taken over'
complete -c aisix -n "__fish_aisix_needs_command" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_needs_command" -s V -l version -d 'Print version'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "validate" -d 'Check the configuration and the certificate bundle, or a resources file, without starting'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "status" -d 'Tell how the gateway that runs is: status 0 if it is ready, 1 if none answers, 3 if it is not ready'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "doctor" -d 'Find what is wrong, and what to do about it, also while the gateway is down: status 0 if nothing is, 3 for warnings, 4 for errors'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "bundle-report" -d 'Gather what a support case needs in one archive, without secrets'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "log" -d 'Change what the gateway that runs logs, until the next reload or upgrade; without a filter, tell what it logs'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "reload" -d 'Have the gateway that runs do what SIGHUP has it do'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "rotate" -d 'Have the gateway that runs ask the Cloud for a new certificate now'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "upgrade" -d 'Have the gateway that runs hand over to the binaries that are installed now'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "export" -d 'Write what an etcd holds as a resources file'
complete -c aisix -n "__fish_aisix_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c aisix -n "__fish_aisix_using_subcommand validate" -l resources -d 'Resources file; without --config nothing else is checked' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand validate" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand validate" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand status" -s w -l watch -d 'Again every two seconds, or every so many, until interrupted' -r
complete -c aisix -n "__fish_aisix_using_subcommand status" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand status" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand status" -l json -d 'As JSON, whose fields stay'
complete -c aisix -n "__fish_aisix_using_subcommand status" -l check -d 'Only one line, for health checks: status 0 if it is ready, 1 if not, within five seconds'
complete -c aisix -n "__fish_aisix_using_subcommand status" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand doctor" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand doctor" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand doctor" -l json -d 'As JSON, whose fields stay'
complete -c aisix -n "__fish_aisix_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand bundle-report" -s o -l output -d 'File to write, for its owner only; else aisix-report-TIME.tar.gz in the current folder' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand bundle-report" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand bundle-report" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand bundle-report" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand log" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand log" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand log" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand reload" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand reload" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand reload" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand rotate" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand rotate" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand rotate" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand upgrade" -l socket -d 'Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand upgrade" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand export" -l etcd -d 'URLs of the etcd, separated by commas' -r
complete -c aisix -n "__fish_aisix_using_subcommand export" -l prefix -d 'Prefix of the keys' -r
complete -c aisix -n "__fish_aisix_using_subcommand export" -s o -l output -d 'File to write, for its owner only; else standard output' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand export" -s c -l config -d 'Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or /etc/aisix/config.managed.yaml' -r -F
complete -c aisix -n "__fish_aisix_using_subcommand export" -l reveal-secrets -d 'Write secrets as they are, instead of ${VARIABLE}'
complete -c aisix -n "__fish_aisix_using_subcommand export" -s h -l help -d 'Print help'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "validate" -d 'Check the configuration and the certificate bundle, or a resources file, without starting'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "status" -d 'Tell how the gateway that runs is: status 0 if it is ready, 1 if none answers, 3 if it is not ready'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "doctor" -d 'Find what is wrong, and what to do about it, also while the gateway is down: status 0 if nothing is, 3 for warnings, 4 for errors'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "bundle-report" -d 'Gather what a support case needs in one archive, without secrets'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "log" -d 'Change what the gateway that runs logs, until the next reload or upgrade; without a filter, tell what it logs'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "reload" -d 'Have the gateway that runs do what SIGHUP has it do'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "rotate" -d 'Have the gateway that runs ask the Cloud for a new certificate now'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "upgrade" -d 'Have the gateway that runs hand over to the binaries that are installed now'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "export" -d 'Write what an etcd holds as a resources file'
complete -c aisix -n "__fish_aisix_using_subcommand help; and not __fish_seen_subcommand_from validate status doctor bundle-report log reload rotate upgrade export help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'

# bash completion for sardine(1)                                   -*- shell-script -*-
# SPDX-License-Identifier: Apache-2.0
# Calls nothing: VMs are found in the runtime directory. tests/install/test_manual.py holds the lists against --help.

# Option names with "=" take a value.
declare -gA _sardine_options=(
	[run]='--balloon= --cache-dir= --cgroup= --cmdline= --config= --console= --cpus= --daemon= --detach --disk= --dry-run
		--engine= --initrd= --json
		--kaslr= --kernel= --log-file= --log-level= --mem= --mergeable= --name= --net= --on-crash= --on-reboot= --rng=
		--sandbox= --seccomp= --stop-timeout= --user= --vsock='
	[ps]='--json'
	[stop]='--json --timeout='
	[kill]='--json'
	[pause]='--json'
	[resume]='--json'
	[wait]='--json'
	[console]=''
	[stats]='--json --watch='
	[balloon]='--json --wait='
	[dump]='--format= --json'
	[merge]='--all --json --timeout='
	[replay]='--cgroup= --check --engine= --image= --json --manual --mem= --name= --seed= --synthetic= --thp= --write-rate= --write-set='
	[bench]='--content= --engines= --json --limit= --mem= --pairs= --seconds= --thp= --vms='
	[check]='--json'
	[analyze]='--all-vms --compare --every= --json --page-size= --pid= --plot= --rounds= --sample= --sizes --sketch= --threads='
)

# _sardine_offer WORDS: those that begin with what was typed.
_sardine_offer() {
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_sardine_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen "${1:--f}" -- "$cur")
}

_sardine_vms() {
	local dir=/run/sardine names=() file
	((EUID)) && [[ ${XDG_RUNTIME_DIR-} == /* ]] && dir=$XDG_RUNTIME_DIR/sardine
	[[ ${SARDINE_RUNTIME_DIR-} == /* ]] && dir=$SARDINE_RUNTIME_DIR
	for file in "$dir"/*.sock; do
		[[ -S $file && ${file##*/} != sardined.sock ]] || continue
		file=${file##*/}
		names+=("${file%.sock}")
	done
	_sardine_offer "${names[*]-}"
}

# The words of an option's parts: "path=" and a file for --disk path=...
_sardine_parts() {
	local before='' last=$cur
	if [[ $cur == *,* ]]; then
		before=${cur%,*},
		last=${cur##*,}
	fi
	mapfile -t COMPREPLY < <(compgen -P "$before" -W "$1" -- "$last")
	compopt -o nospace 2>/dev/null
}

# The value of option $1 of verb $2.
_sardine_value() {
	case $2$1 in
	replay--engine) _sardine_offer 'off local store ksm'; return ;;
	esac
	case $1 in
	--kernel | --initrd | --config | --daemon | --log-file | --plot | --sketch | --image) _sardine_files ;;
	--cache-dir | --cgroup) _sardine_files -d ;;
	--kaslr | --mergeable) _sardine_offer 'on off' ;;
	--balloon) _sardine_parts 'on off size= stats=on stats=off deflate-on-oom=on deflate-on-oom=off reporting=on reporting=off poison=on poison=off stats-interval=' ;;
	--net) _sardine_parts 'tap= tap-fd= mac= mtu= bw= iops=' ;;
	--vsock) _sardine_parts 'cid= path= bw= iops=' ;;
	--engine) _sardine_offer 'auto store local off' ;;
	--sandbox) _sardine_offer 'auto on off' ;;
	--seccomp) _sardine_offer 'auto on log off' ;;
	--thp) _sardine_offer 'on off' ;;
	--synthetic) _sardine_offer 'guests clones runs scattered unique' ;;
	--content) _sardine_offer 'images: synthetic:' ;;
	--engines) _sardine_offer 'ksmd-default ksmd-fastest store' ;;
	--user) mapfile -t COMPREPLY < <(compgen -u -- "$cur") ;;
	--on-reboot | --on-crash) _sardine_offer 'restart exit' ;;
	--rng) _sardine_parts 'on off bw= iops=' ;;
	--disk) _sardine_parts 'path= ro direct=on direct=off serial= bw= iops=' ;;
	--console) _sardine_offer 'stdio none file: unix:' ;;
	--log-level) _sardine_offer 'error warn info debug' ;;
	--format) _sardine_offer 'elf raw' ;;
	--name) ;;
	esac
}

# What is not an option.
_sardine_argument() {
	case $1 in
	stop | kill | pause | resume | wait | console | stats | balloon | merge) _sardine_vms ;;
	dump) if ((2 == COMP_CWORD)); then _sardine_vms; else _sardine_files; fi ;;
	bench) _sardine_offer 'merge idle' ;;
	analyze) _sardine_files ;;
	esac
}

_sardine() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		_sardine_offer "${!_sardine_options[*]} --help --version"
		return
	fi
	[[ -v _sardine_options[$verb] ]] || return 0
	# Bash splits words at "=".
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	if [[ $prev == --* && " ${_sardine_options[$verb]} " == *[[:space:]]"$prev="[[:space:]]* ]]; then
		_sardine_value "$prev" "$verb"
	elif [[ $cur == -* ]]; then
		_sardine_offer "${_sardine_options[$verb]} --help --usage"
		[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
	else
		_sardine_argument "$verb"
	fi
	return 0
}

complete -F _sardine sardine

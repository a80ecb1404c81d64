# bash completion for sardined(8)                                  -*- shell-script -*-
# SPDX-License-Identifier: Apache-2.0
# tests/vm/test_daemon.py holds the list against --help.
_sardined() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	# Bash splits words at "=".
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	case $prev in
	--socket | --log-file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		;;
	--log-level) mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$cur") ;;
	--threads) ;;
	*)
		mapfile -t COMPREPLY < <(compgen -W '--json --log-file= --log-level= --socket= --status --threads= --help --usage --version' -- "$cur")
		[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
		;;
	esac
	return 0
}

complete -F _sardined sardined

from tmask.cli.app import main

main()

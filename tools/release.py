from densemtmd.commands.release import main

if __name__ == "__main__":
    raise SystemExit(main())
